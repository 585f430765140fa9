from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn.functional import dropout

from pruning.formats.architectures import build
from pruning.formats.errors import FormatError
from pruning.intake import inspect_model


def test_report_of_lenet_300_100() -> None:
    report = json.loads(json.dumps(inspect_model(build("lenet_300_100"), (1, 28, 28))))
    layers, smoke_test = report.pop("layers"), report.pop("smoke_test")
    assert smoke_test == {"batch_sizes": [2, 3], "deterministic": True, "train_loss": pytest.approx(3, abs=2)}
    assert report == {
        "num_parameters": 266_200,
        "num_parameters_total": 266_610,
        "macs": 266_200,
        "num_prunable": 3,
        "output_layer": "fc3",
        "num_outputs": 10,
        "output_shape": [10],
        "others": [],
        "input_shape": [1, 28, 28],
        "input_dtype": "float32",
    }
    assert layers[0] == {
        "name": "fc1",
        "type": "Linear",
        "shape": [300, 784],
        "num_weights": 235_200,
        "num_units": 300,
        "least_units": 1,
        "prunable": ["weight", "unit"],
        "reason": None,
        "is_output": False,
        "group": "fc1",
    }
    assert (layers[2]["prunable"], layers[2]["is_output"]) == (["weight"], True)
    assert "outputs" in layers[2]["reason"]


def test_coupled_layers_name_their_group() -> None:
    layers = {layer["name"]: layer for layer in inspect_model(build("resnet20"), (3, 32, 32))["layers"]}
    assert layers["layer1.2.conv2"]["group"] == "conv1"
    assert layers["layer2.0.shortcut.0"]["group"] == "layer2.0.conv2"


def test_inspection_leaves_the_module_as_it_is(toy_conv) -> None:
    before = {key: value.clone() for key, value in toy_conv.state_dict().items()}
    inspect_model(toy_conv, (1, 4, 4))
    assert all(torch.equal(before[key], value) for key, value in toy_conv.state_dict().items())
    assert toy_conv.training


class Wrapped(nn.Module):
    """A linear layer, and something done to what goes in or comes out."""

    def __init__(self, before=lambda x: x, after=lambda x: x) -> None:
        super().__init__()
        self.fc, self.before, self.after = nn.Linear(3, 2), before, after

    def forward(self, x):
        return self.after(self.fc(self.before(x)))


def nan_weight() -> nn.Module:
    layer = nn.Linear(3, 2)
    nn.init.constant_(layer.weight, float("nan"))
    return layer


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Wrapped(before=lambda x: x.view(2, 3)), "fails on a batch of 3"),
        (Wrapped(before=lambda x: x + x[:2].view(2, 3).sum()), "fails on a batch of 1"),
        (Wrapped(after=lambda x: (x, x)), "returns a tuple"),
        (Wrapped(after=torch.flatten), r"shape \(4,\) for a batch of 2"),
        (Wrapped(before=lambda x: dropout(x, 0.5, training=True)), "deterministic"),
        (Wrapped(after=lambda x: x.detach()), "cannot be trained"),
        (nan_weight(), "NaN or infinity"),
        (nn.Linear(4, 2), "does not run on inputs"),
        (nn.ReLU(), "no linear or convolution layer"),
    ],
)
def test_the_smoke_test_says_what_failed(model, said) -> None:
    with pytest.raises(FormatError, match=said):
        inspect_model(nn.Sequential(model), (3,))


class Patchwork(nn.Module):
    """Everything that is trained and never pruned, and one layer that is."""

    input_dtype = torch.int64

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(7, 4), nn.Parameter(torch.zeros(5, 4))
        self.norm, self.lstm = nn.LayerNorm(4), nn.LSTM(4, 6, batch_first=True)
        self.fc, self.unused = nn.Linear(6, 3), nn.Linear(2, 2)

    def forward(self, x):
        return self.fc(self.lstm(self.norm(self.embedding(x) + self.positions))[0][:, -1])


def test_parameters_that_are_not_pruned_say_why() -> None:
    report = inspect_model(Patchwork(), (5,))
    reasons = {other["name"]: other["reason"] for other in report["others"]}
    assert report["input_dtype"] == "int64"
    assert [layer["name"] for layer in report["layers"]] == ["fc"]
    assert "looked up" in reasons["embedding.weight"]
    assert "by an operation" in reasons["positions"]
    assert "normalisation" in reasons["norm.bias"]
    assert "recurrent" in reasons["lstm.weight_hh_l0"]
    assert reasons["unused.weight"] == reasons["unused.bias"] == "is not used in the forward pass"
    assert sum(other["num_weights"] for other in report["others"]) + 18 + 3 == report["num_parameters_total"]


class NextToken(nn.Module):
    input_dtype = torch.int64

    def __init__(self, after=lambda x: x) -> None:
        super().__init__()
        self.embedding, self.hidden, self.fc = nn.Embedding(7, 4), nn.Linear(4, 5), nn.Linear(5, 7)
        self.after = after

    def forward(self, x):
        return self.after(self.fc(torch.relu(self.hidden(self.embedding(x)))))


def test_a_vocabulary_of_logits_for_every_token() -> None:
    report = inspect_model(NextToken(), (5,))
    assert (report["num_outputs"], report["output_shape"]) == (7, [5, 7])
    assert report["output_layer"] == "fc"
    with pytest.raises(FormatError, match="vocabulary"):
        inspect_model(NextToken(lambda x: x[:, 1:]), (5,))


def test_logits_for_every_row_of_numbers_are_refused() -> None:
    with pytest.raises(FormatError, match=r"must give \(batch, classes\) logits for"):
        inspect_model(nn.Sequential(nn.Linear(3, 2)), (4, 3))


def test_tokens_are_smaller_than_every_embedding() -> None:
    """A position's table is shorter than the words': numbers that one of them does not know would be an IndexError."""
    inspect_model(Patchwork(), (5,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bool, torch.uint8])
def test_other_inputs_than_numbers_and_tokens_are_refused(dtype) -> None:
    model = build("lenet_300_100", (1, 4, 4), 3)
    model.input_dtype = dtype
    with pytest.raises(FormatError, match=r"model\.float\(\)"):
        inspect_model(model, (1, 4, 4))


def test_a_frozen_model_is_refused() -> None:
    model = build("lenet_300_100", (1, 4, 4), 3).requires_grad_(False)
    with pytest.raises(FormatError, match=r"requires_grad_\(True\)"):
        inspect_model(model, (1, 4, 4))
