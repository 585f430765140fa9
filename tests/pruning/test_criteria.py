from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from pruning.criteria import CRITERIA, Evidence
from pruning.data import Split
from pruning.losses import IGNORED, LOSSES
from pruning.randomness import generator, global_stream
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
    criterion = CRITERIA["magnitude"]
    scores = criterion.score(counting_toy, masks, evidence_for(counting_toy, torch.zeros(2, 3), by_unit=False))
    assert criterion.by(scores["fc2.weight"]).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


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


class Joined(nn.Module):
    """Two layers side by side, then what is given."""

    def __init__(self, *behind: nn.Module) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 4, 1)
        self.behind, self.fc = nn.Sequential(*behind), nn.Linear(7 * 4, 2)

    def joined(self, x):
        return self.behind(torch.cat([self.a(x), self.b(x)], 1))

    def forward(self, x):
        return self.fc(self.joined(x).flatten(1))


@pytest.mark.parametrize(
    "behind", [[nn.ReLU()], [nn.BatchNorm2d(7), nn.ReLU()], [nn.BatchNorm2d(7)]], ids=["relu", "norm-relu", "norm"]
)
def test_units_are_read_behind_a_concatenation_where_the_activation_is(behind) -> None:
    model = Joined(*copy.deepcopy(behind)).eval()
    inputs = torch.randn(600, 2, 2, 2, generator=generator(0, "inputs"))
    with torch.no_grad():
        for name, tensor in model.behind.state_dict().items():
            if tensor.dim() == 1:
                tensor.uniform_(0.5, 1.5, generator=generator(0, name))
        expected = model.joined(inputs)
    evidence = evidence_for(model, inputs)
    for name, of in (("activation", expected.abs()), ("apoz", (expected != 0).float())):
        scores = CRITERIA[name].score(model, {}, evidence)
        found = torch.cat([scores["a"], scores["b"]]).float()
        torch.testing.assert_close(found, of.mean((0, 2, 3)))


def linear(weights: list[list[float]]) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(len(weights[0]), len(weights), bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(weights))
    return model


def scored(name, model, inputs, loss_fn=None, masks=None):
    masks = masks or {
        f"{path}.weight": torch.ones_like(module.weight, dtype=torch.bool)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    evidence = evidence_for(model, inputs, by_unit=False)
    if loss_fn is not None:
        evidence = replace(evidence, loss_fn=loss_fn)
    return CRITERIA[name].score(model, masks, evidence)


def mean_output(outputs, targets):
    return outputs.mean()


def half_square(outputs, targets):
    return outputs.square().sum(1).mean() / 2


INPUTS = torch.tensor([[1.0, 2.0], [3.0, -4.0]])


def test_taylor_by_hand() -> None:
    """L = mean(w x): g is the mean input, (2, -1)."""
    scores = scored("taylor", linear([[3.0, 5.0]]), INPUTS, mean_output)
    assert scores["0.weight"].tolist() == [[36.0, 25.0]]


def test_taylor_squares_every_batch_before_it_takes_their_mean() -> None:
    """256 examples of 1 and 256 of -1: gradients of mixed batches nearly vanish, and their squares are what counts."""
    inputs = torch.cat([torch.ones(256, 1), -torch.ones(256, 1)])
    batches = [x.mean() for x, _ in evidence_for(linear([[1.0]]), inputs, by_unit=False).sample()]
    assert len(batches) == 2
    scores = scored("taylor", linear([[3.0]]), inputs, mean_output)["0.weight"]
    assert scores.item() == pytest.approx(float(torch.stack(batches).square().mean() * 9))


def test_snip_by_hand() -> None:
    scores = scored("snip", linear([[3.0, -5.0]]), INPUTS, mean_output)
    assert scores["0.weight"].tolist() == [[6.0, 5.0]]


def test_grasp_by_hand() -> None:
    """L = 1/2 mean (w x)^2: g = A w and H = A, A the mean of x x^T; s = w (A A w)."""
    w = torch.tensor([[3.0, -5.0]])
    second_moments = (INPUTS.T @ INPUTS) / 2
    expected = w * (second_moments @ second_moments @ w.T).T
    scores = scored("grasp", linear(w.tolist()), INPUTS, half_square)
    torch.testing.assert_close(scores["0.weight"], expected)


def test_grasp_takes_both_derivatives_of_the_same_examples(monkeypatch) -> None:
    """Of a sample of one of the two examples, the scores are one's or the other's, never of a mixture."""
    monkeypatch.setattr("pruning.evidence.SAMPLE", 1)
    w = torch.tensor([[3.0, -5.0]])
    alone = [w * (torch.outer(x, x) @ torch.outer(x, x) @ w.T).T for x in INPUTS]
    for seed in range(8):
        model = linear(w.tolist())
        evidence = replace(evidence_for(model, INPUTS, by_unit=False), loss_fn=half_square)
        evidence.generator.manual_seed(seed)
        scores = CRITERIA["grasp"].score(model, {"0.weight": torch.ones(1, 2, dtype=torch.bool)}, evidence)
        assert any(torch.allclose(scores["0.weight"], expected) for expected in alone)


def test_grasp_is_the_flow_that_a_weight_gives() -> None:
    """s . dw is half of the change of |g|^2, as a small step along the weight shows."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    inputs = INPUTS.double()

    def flow(scale: float, row: int, column: int) -> float:
        changed = copy.deepcopy(model)
        with torch.no_grad():
            changed[0].weight[row, column] *= scale
        loss = half_square(changed(inputs), None)
        weights = [changed[0].weight, changed[2].weight]
        return sum(float(g.square().sum()) for g in torch.autograd.grad(loss, weights))

    scores = scored("grasp", model, inputs.float().double(), half_square)["0.weight"]
    for row, column in ((0, 0), (2, 1)):
        slope = (flow(1 + 1e-5, row, column) - flow(1 - 1e-5, row, column)) / 2e-5
        assert scores[row, column].item() == pytest.approx(slope / 2, rel=1e-4)


@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_gradients_are_of_the_whole_sample_whatever_its_batches(name) -> None:
    """300 examples are a batch of 256 and one of 44: each example counts once."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    inputs = torch.randn(300, 2, generator=generator(0, "inputs"), dtype=torch.float64)
    weights = [model[0].weight, model[2].weight]
    gradients = torch.autograd.grad(half_square(model(inputs), None), weights, create_graph=True)
    if name == "snip":
        expected = [(g * w).abs() for g, w in zip(gradients, weights, strict=True)]
    else:
        dot = sum((g * g.detach()).sum() for g in gradients)
        expected = [w * h for w, h in zip(weights, torch.autograd.grad(dot, weights), strict=True)]
    scores = scored(name, model, inputs, half_square)
    for found, wanted in zip(scores.values(), expected, strict=True):
        torch.testing.assert_close(found, wanted.detach())


@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_gradients_of_tokens_weigh_by_those_to_predict(name) -> None:
    """Two batches, of which one has nearly nothing to predict: the loss is a mean over tokens, not over batches."""
    loss = LOSSES["next_token"]
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5)).double()
    tokens = torch.randint(0, 5, (300, 4), generator=generator(0, "tokens"))
    targets = torch.where(torch.rand(300, 4, generator=generator(0, "told")) < 0.3, tokens.flip(1), IGNORED)
    targets[:150] = IGNORED
    targets[0, 0] = 1

    def run(batch: int) -> torch.Tensor:
        evidence = Evidence(
            Split(tokens, targets),
            Preprocessing(),
            [],
            generator(0, "test"),
            loss_fn=lambda outputs, targets: loss.training(outputs, targets, 0.0),
            count=loss.count,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pruning.evidence.SAMPLE_BATCH", batch)
            masks = {"1.weight": torch.ones(5, 3, dtype=torch.bool)}
            return CRITERIA[name].score(model, masks, evidence)["1.weight"]

    torch.testing.assert_close(run(64), run(300))


@pytest.mark.parametrize("name", ["taylor", "snip", "grasp", "synflow", "wanda"])
def test_a_layer_whose_output_is_not_used_scores_zero(name) -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.unused, self.b = nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            x = torch.tanh(self.a(x))
            self.unused(x)
            return self.b(x)

    scores = scored(name, Dead(), INPUTS)
    assert scores["a.weight"].abs().sum() > 0
    assert bool((scores["unused.weight"] == 0).all()) == (name != "wanda"), "wanda asks only what enters"


def test_wanda_of_tied_weights_takes_what_enters_every_layer_that_has_them() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    model[2].weight = model[0].weight
    masks = {"0.weight": torch.ones(2, 2, dtype=torch.bool)}
    scores = scored("wanda", model, INPUTS, masks=masks)["0.weight"]
    with torch.no_grad():
        entered = torch.cat([INPUTS, torch.relu(model[0](INPUTS))])
    torch.testing.assert_close(scores, model[0].weight.detach().abs() * entered.square().sum(0).sqrt())


def test_wanda_scores_weights_of_layers_alone_whatever_else_is_masked(toy_conv) -> None:
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in toy_conv.named_parameters()}
    scores = scored("wanda", toy_conv, torch.randn(4, 1, 4, 4), masks=masks)
    assert {name: score.shape for name, score in scores.items()} == {
        name: toy_conv.get_parameter(name).shape for name in ("conv.weight", "fc1.weight", "fc2.weight")
    }


def test_wanda_of_a_layer_tied_to_an_embedding() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Tanh(), nn.Linear(3, 5, bias=False))
    model[2].weight = model[0].weight
    tokens = torch.tensor([[0, 1], [4, 2]])
    evidence = Evidence(Split(tokens, tokens), Preprocessing(), [], generator(0, "test"))
    scores = CRITERIA["wanda"].score(model, {"0.weight": torch.ones(5, 3, dtype=torch.bool)}, evidence)["0.weight"]
    with torch.no_grad():
        entered = torch.tanh(model[0](tokens)).flatten(0, 1)
    torch.testing.assert_close(scores, model[0].weight.detach().abs() * entered.square().sum(0).sqrt())


def test_synflow_by_hand() -> None:
    """R = sum over paths of the products of |w|; pruned weights carry nothing."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))
        model[2].weight.copy_(torch.tensor([[-5.0, 6.0]]))
    masks = {
        "0.weight": torch.tensor([[True, True], [True, False]]),
        "2.weight": torch.tensor([[True, True]]),
    }
    scores = scored("synflow", model, INPUTS, masks=masks)
    largest = 6 * 3  # of the second unit, whose other weight is pruned
    torch.testing.assert_close(scores["0.weight"] * largest, torch.tensor([[5.0, 10.0], [18.0, 0.0]]))
    torch.testing.assert_close(scores["2.weight"] * largest, torch.tensor([[15.0, 18.0]]))


def test_synflow_takes_no_data_and_conserves_what_flows() -> None:
    """A hidden unit's incoming scores add up to its outgoing ones (Tanaka et al. 2020, theorem 1)."""
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False))
    one, two = (scored("synflow", model, torch.randn(5, 4) * scale) for scale in (1, 1000))
    assert all(torch.equal(one[name], two[name]) for name in one)
    torch.testing.assert_close(one["0.weight"].sum(1), one["2.weight"].sum(0))


def test_wanda_by_hand() -> None:
    scores = scored("wanda", linear([[3.0, -5.0], [1.0, 0.0]]), INPUTS)
    norms = torch.tensor([10.0, 20.0]).sqrt()
    torch.testing.assert_close(scores["0.weight"], torch.tensor([[3.0, 5.0], [1.0, 0.0]]) * norms)


@pytest.mark.parametrize("groups", [1, 2])
def test_wanda_of_a_convolution_takes_all_positions_of_its_groups_inputs(groups) -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, groups=groups))
    inputs = torch.randn(5, 4, 7, 7, generator=generator(0, "inputs"))
    scores = scored("wanda", model, inputs)["0.weight"]
    norms = inputs.square().sum((0, 2, 3)).sqrt()
    for unit in range(6):
        seen = norms.view(groups, -1)[unit // (6 // groups)]
        expected = model[0].weight[unit].detach().abs() * seen.view(-1, 1, 1)
        torch.testing.assert_close(scores[unit], expected)


def test_apoz_by_hand() -> None:
    """The fraction of samples where a unit is not zero."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 0.0]]))
        model[0].bias.copy_(torch.tensor([0.0, 1.0]))
    inputs = torch.tensor([[3, 1], [1, 3], [0, 0], [5, 0]], dtype=torch.uint8)
    scores = CRITERIA["apoz"].score(model, {}, evidence_for(model, inputs))
    assert scores["0"].tolist() == [0.5, 0.25]


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("fails_at", [None, 1, 2])
def test_a_criterion_leaves_the_very_model_that_it_scores_as_it_is(name, fails_at) -> None:
    """Also where the model fails in the middle of it: weights, statistics, modes, gradients, hooks, generators."""
    calls = 0

    def fail(*_) -> None:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise RuntimeError("failed on purpose")

    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 2))
    inputs = torch.randn(600, 4)
    evidence = evidence_for(model, inputs, by_unit=name in ("activation", "apoz"))
    model[2].register_forward_hook(fail)
    model[1].eval()
    model[4].bias.requires_grad_(False)
    masks = {f"{layer}.weight": torch.rand_like(model[layer].weight) < 0.8 for layer in (0, 4)}

    def looked_at() -> list:
        tensors = [*model.state_dict().values(), *masks.values(), inputs, torch.get_rng_state()]
        modules = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
        parameters = [(p.grad is None, p.requires_grad) for p in model.parameters()]
        return [*[tensor.numpy().tobytes() for tensor in tensors], modules, parameters]

    before = looked_at()
    with global_stream(0, "criterion"):
        try:
            CRITERIA[name].score(model, masks, evidence)
        except RuntimeError as error:
            if "failed on purpose" not in str(error):
                raise
        else:
            reads_data = name not in ("magnitude", "random")
            assert fails_at is None or not reads_data or (name, fails_at) == ("synflow", 2), "it did not fail"
    assert looked_at() == before
