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
    layers = report.pop("layers")
    assert report == {
        "num_parameters": 266_200,
        "num_parameters_total": 266_610,
        "num_prunable": 3,
        "output_layer": "fc3",
        "num_outputs": 10,
    }
    assert layers[0] == {
        "name": "fc1",
        "type": "Linear",
        "shape": [300, 784],
        "num_weights": 235_200,
        "num_units": 300,
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
