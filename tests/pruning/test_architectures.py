from __future__ import annotations

import pytest
import torch

from pruning.formats.architectures import ARCHITECTURES, build
from pruning.formats.errors import FormatError
from pruning.formats.names import ARCHITECTURE_NAMES

PAPER_WEIGHTS = {  # Frankle & Carbin 2019, figure 2: 266K, 4.3M, 2.4M, 1.7M (Conv-6 on 32x32 here with 3x3 padding 1)
    "lenet_300_100": 266_200,
    "conv2": 4_300_992,
    "conv4": 2_425_024,
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_runs_by_default_and_knows_its_shape(name) -> None:
    model = build(name)
    assert model.input_shape == ARCHITECTURES[name].input_shape
    assert model.eval()(torch.zeros(2, *model.input_shape)).shape == (2, 10)
    weights = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    assert weights == PAPER_WEIGHTS.get(name, weights)
    assert all(bool((p == 0).all()) for key, p in model.named_parameters() if key.endswith("bias"))


@pytest.mark.parametrize("name", [name for name, row in ARCHITECTURES.items() if row.smallest is not None])
def test_the_smallest_shape_is_the_smallest(name) -> None:
    smallest = ARCHITECTURES[name].smallest
    model = build(name, (2, smallest, smallest), 3).eval()
    assert model(torch.zeros(2, 2, smallest, smallest)).shape == (2, 3)
    if smallest > 1:
        with pytest.raises(FormatError, match=f"input_shape: .* needs {smallest}x{smallest}"):
            build(name, (2, smallest, smallest - 1))


def test_weights_come_from_the_seed_and_leave_the_global_generator() -> None:
    before = torch.get_rng_state()
    one, same, other = (build("lenet_300_100", seed=seed).fc1.weight for seed in (0, None, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert float(one.detach().std()) == pytest.approx((2 / (784 + 300)) ** 0.5, rel=0.02), "Glorot normal"


def test_the_torch_free_names_are_the_tables() -> None:
    assert tuple(ARCHITECTURES) == ARCHITECTURE_NAMES


def test_parameter_names_are_plain() -> None:
    assert list(build("conv2").state_dict())[:3] == ["conv1.weight", "conv1.bias", "conv2.weight"]
    assert "layer2.0.shortcut.0.weight" in build("resnet20").state_dict()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"architecture": "lenet"}, "architecture: there is no 'lenet'; use one of lenet_300_100"),
        ({"architecture": "conv2", "input_shape": (28, 28)}, r"input_shape: conv2 takes \(channels"),
        ({"architecture": "lenet_300_100", "input_shape": (0, 3)}, "input_shape"),
        ({"architecture": "lenet_300_100", "num_classes": 1}, "num_classes: 1 is too few"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, said) -> None:
    with pytest.raises(FormatError, match=said):
        build(**arguments)
