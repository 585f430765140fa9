from __future__ import annotations

import pytest
import torch
from torch import nn

from pruning.criteria import CRITERIA, Evidence
from pruning.data import Split
from pruning.randomness import generator
from pruning.training_options import Preprocessing
from pruning.unit_flow import find_units


def evidence_for(model, inputs, by_unit=True) -> Evidence:
    groups = find_units(model, inputs[:2].float())[0] if by_unit else []
    split = Split(inputs, torch.zeros(len(inputs), dtype=torch.int64))
    return Evidence(split, Preprocessing(scale=1.0), groups, generator(0, "test"))


def test_magnitude_is_absolute(counting_toy) -> None:
    with torch.no_grad():
        counting_toy.fc2.weight.neg_()
    masks = {"fc2.weight": torch.ones(2, 4, dtype=torch.bool)}
    scores = CRITERIA["magnitude"].score(
        counting_toy, masks, evidence_for(counting_toy, torch.zeros(2, 3), by_unit=False)
    )
    assert scores["fc2.weight"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_dropnet_score_of_a_node_by_hand() -> None:
    """Two nodes: a1 = relu(x1 - x2), a2 = relu(-x1 + 1)."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 0.0]]))
        model[0].bias.copy_(torch.tensor([0.0, 1.0]))
    inputs = torch.tensor([[3, 1], [1, 3], [0, 0], [5, 0]], dtype=torch.uint8)
    scores = CRITERIA["activation"].score(model, {}, evidence_for(model, inputs))
    assert scores["0"].tolist() == [(2 + 0 + 0 + 5) / 4, (0 + 0 + 1 + 0) / 4]


def test_dropnet_score_of_a_filter_averages_positions_before_pooling_over_all_samples() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -2.0]).view(2, 1, 1, 1))
        model[0].bias.zero_()
    inputs = torch.randn(700, 1, 2, 2, generator=generator(0, "inputs"))  # more than one batch
    scores = CRITERIA["activation"].score(model, {}, evidence_for(model, inputs))["0"]
    expected = torch.stack([torch.tanh(inputs).abs().mean(), torch.tanh(2 * inputs).abs().mean()])
    torch.testing.assert_close(scores.float(), expected)


def test_dropnet_score_of_a_residual_unit_is_the_mean_over_its_activations() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.fc = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False), nn.Linear(1, 2)

        def forward(self, x):
            x = torch.relu(self.a(x))
            out = self.b(x)
            out += x
            return self.fc(torch.nn.functional.relu(out, inplace=True))

    model = Sum()
    with torch.no_grad():
        model.a.weight.fill_(2.0)
        model.b.weight.fill_(3.0)
    scores = CRITERIA["activation"].score(model, {}, evidence_for(model, torch.tensor([[1.0], [2.0]])))
    assert scores["a"].tolist() == [((2 + 4) / 2 + (8 + 16) / 2) / 2]


def test_activation_reads_the_network_as_it_is_evaluated_and_restores_it(toy_conv) -> None:
    """Dropout off, batch-norm by its running statistics, which stay as they were."""
    toy_conv.train()
    inputs = torch.randn(20, 1, 4, 4)
    before = {key: value.clone() for key, value in toy_conv.state_dict().items()}
    one, two = (CRITERIA["activation"].score(toy_conv, {}, evidence_for(toy_conv, inputs)) for _ in range(2))
    assert torch.equal(one["fc1"], two["fc1"])
    assert all(torch.equal(before[key], value) for key, value in toy_conv.state_dict().items())
    assert toy_conv.dropout.training
    toy_conv.eval()
    with torch.no_grad():
        expected = torch.relu(toy_conv.bn(toy_conv.conv(inputs))).mean((0, 2, 3))
    torch.testing.assert_close(one["conv"].float(), expected)


@pytest.mark.parametrize("by_unit", [False, True])
def test_random_scores_what_competes(counting_toy, by_unit) -> None:
    masks = {"fc1.weight": torch.ones(4, 3, dtype=torch.bool)}
    one, two = (
        CRITERIA["random"].score(counting_toy, masks, evidence_for(counting_toy, torch.zeros(2, 3), by_unit))
        for _ in range(2)
    )
    (name,) = one
    assert one[name].shape == ((4,) if by_unit else (4, 3))
    assert torch.equal(one[name], two[name])
    assert len(one[name].unique()) == one[name].numel()


def test_dropnet_score_of_a_filter_that_is_activated_behind_the_flatten() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.ReLU(), nn.Linear(8, 2))
    inputs = torch.randn(10, 1, 2, 2, generator=generator(0, "inputs"))
    scores = CRITERIA["activation"].score(model, {}, evidence_for(model, inputs))["0"]
    torch.testing.assert_close(scores.float(), torch.relu(model[0](inputs)).mean((0, 2, 3)).detach())
