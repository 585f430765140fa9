from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, dropout, max_pool2d, pad, relu

from pruning.formats.architectures import BasicBlock, build
from pruning.graph import UntraceableError, find_layers, output_layers, trace_with_shapes
from pruning.masks import apply_masks
from pruning.training import evaluating
from pruning.unit_flow import find_units
from pruning.units import Slice, kept_units, masks_to_unit_masks, unit_masks_to_masks, unit_scores


def every_third(size: int) -> torch.Tensor:
    return torch.arange(size) % 3 != 1


class Residual(nn.Module):
    """A stem and two blocks whose sums tie units together, and one strided block with a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.block1 = BasicBlock(6, 6, 1)
        self.block2 = BasicBlock(6, 9, 2)
        self.fc = nn.Linear(9, 4)

    def forward(self, x):
        x = self.block2(self.block1(relu(self.stem(x))))
        return self.fc(x.mean((2, 3)))


def test_slices_of_a_convolution_flattened_into_a_linear_layer(toy_conv) -> None:
    groups, reasons = find_units(toy_conv, torch.randn(2, 1, 4, 4))
    conv, fc1 = groups
    assert (conv.name, conv.size, conv.layers) == ("conv", 4, ("conv",))
    assert set(conv.slices) == {
        Slice("conv.weight", 0),
        Slice("conv.bias", 0),
        Slice("bn.weight", 0),
        Slice("bn.bias", 0),
        Slice("fc1.weight", 1, span=4),
    }
    assert set(fc1.slices) == {Slice("fc1.weight", 0), Slice("fc1.bias", 0), Slice("fc2.weight", 1)}
    assert [a.name for a in conv.activations] == ["relu"], "after the activation, before pooling"
    assert reasons == {"fc2": "its units are the model's outputs"}


@pytest.mark.parametrize("trained", [False, True], ids=["eval", "train"])
def test_a_masked_unit_emits_exactly_zero_and_reaches_nobody(toy_conv, trained) -> None:
    with torch.no_grad():
        toy_conv.bn.running_mean.uniform_(-1, 1)
        toy_conv.bn.bias.uniform_(0.5, 1)
    groups, _ = find_units(toy_conv, torch.randn(2, 1, 4, 4))
    parameters = dict(toy_conv.named_parameters())
    unit_masks = {group.name: every_third(group.size) for group in groups}
    masks = unit_masks_to_masks(unit_masks, groups, parameters)
    apply_masks(parameters, masks)
    seen = {}
    toy_conv.fc1.register_forward_pre_hook(lambda _, inputs: seen.update(conv=inputs[0].view(-1, 4, 4)))
    toy_conv.fc2.register_forward_pre_hook(lambda _, inputs: seen.update(fc1=inputs[0]))
    toy_conv.train(trained)
    toy_conv(torch.randn(5, 1, 4, 4))
    for name, values in seen.items():
        assert bool((values[:, ~unit_masks[name]] == 0).all())
        assert bool((values[:, unit_masks[name]] != 0).any())
    columns = toy_conv.fc1.weight.view(6, 4, 4)
    assert bool((columns[:, ~unit_masks["conv"]] == 0).all())


def test_masks_and_unit_masks_are_inverse(toy_conv) -> None:
    groups, _ = find_units(toy_conv, torch.randn(2, 1, 4, 4))
    unit_masks = {"conv": torch.tensor([False, True, False, False]), "fc1": torch.tensor([False] * 5 + [True])}
    masks = unit_masks_to_masks(unit_masks, groups, dict(toy_conv.named_parameters()))
    back = masks_to_unit_masks(masks, groups)
    assert all(torch.equal(back[name], unit_masks[name]) for name in unit_masks)
    assert kept_units(unit_masks, groups) == {"conv": [1], "fc1": [5]}
    assert int(masks["fc1.weight"].sum()) == 4, "one unit kept, fed by the four columns of one channel"


def test_residual_sums_tie_layers_into_one_group() -> None:
    groups, reasons = find_units(Residual(), torch.randn(2, 2, 8, 8))
    assert {group.name: group.layers for group in groups} == {
        "stem": ("stem", "block1.conv2"),
        "block1.conv1": ("block1.conv1",),
        "block2.conv1": ("block2.conv1",),
        "block2.conv2": ("block2.conv2", "block2.shortcut.0"),
    }
    stem = groups[0]
    assert {s.name for s in stem.slices} == {
        *("stem.weight", "stem.bias", "block1.conv2.weight", "block1.bn2.weight", "block1.bn2.bias"),
        *("block1.conv1.weight", "block2.conv1.weight", "block2.shortcut.0.weight"),
    }
    assert len(stem.activations) == 2, "after the stem and after the sum"
    assert list(reasons) == ["fc"]


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "residual"])
def test_cutting_masked_units_out_changes_nothing(name) -> None:
    """Zero every masked slice, then shuffle what the masked units hold inside: outputs stay equal to the bit."""
    model = Residual() if name == "residual" else build(name)
    example = torch.randn(3, 2, 8, 8) if name == "residual" else torch.randn(3, *model.input_shape)
    groups, _ = find_units(model, example)
    parameters = dict(model.named_parameters())
    unit_masks = {group.name: every_third(group.size) for group in groups}
    masks = unit_masks_to_masks(unit_masks, groups, parameters)
    with evaluating(model), torch.no_grad():
        dense = model(example)
        apply_masks(parameters, masks)
        masked = model(example)
        assert not torch.equal(dense, masked)
        # Whatever reached a consumer from a masked unit would now be large.
        for group in groups:
            for part in group.slices:
                if part.dim == 1:
                    held = unit_masks[group.name].repeat_interleave(part.span)
                    parameters[part.name][:, ~held] = 1e3 * masks[part.name].flatten(1).any(1).view(
                        -1, *[1] * (parameters[part.name].dim() - 1)
                    )
        assert torch.equal(model(example), masked)


def test_a_sum_that_begins_with_zero_is_one_of_its_branches() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(2, 4, 1)
            self.branches, self.fc = nn.ModuleList(nn.Conv2d(4, 6, 1) for _ in range(3)), nn.Linear(6, 2)

        def forward(self, x):
            x = relu(self.stem(x))
            return self.fc(relu(sum(branch(x) for branch in self.branches)).mean((2, 3)))

    groups, reasons = find_units(Branches(), torch.randn(2, 2, 4, 4))
    assert [group.layers for group in groups] == [("stem",), ("branches.0", "branches.1", "branches.2")]
    assert list(reasons) == ["fc"]


def test_layers_that_cannot_be_followed_say_why() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.depthwise = nn.Conv2d(2, 4, 3, padding=1, groups=2)
            self.b = nn.Conv2d(4, 4, 1)
            self.c = nn.Conv2d(4, 4, 1)
            self.norm = nn.BatchNorm2d(4, affine=False)
            self.d = nn.Conv2d(4, 4, 1)
            self.twice = nn.Conv2d(4, 4, 1)
            self.e = nn.Conv2d(4, 4, 1)
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            x = self.b(self.depthwise(x))
            x = self.c(torch.softmax(x, 1))
            x = self.d(self.norm(x))
            x = self.e(self.twice(relu(self.twice(x))))
            return self.fc(adaptive_avg_pool2d(relu(x) + 1, 1).view(x.size(0), -1))

    groups, reasons = find_units(Odd(), torch.randn(2, 2, 4, 4))
    assert groups == []
    assert "depthwise convolution, whose filters go with its inputs" in reasons["depthwise"]
    assert "softmax" in reasons["b"]
    assert "batchnorm2d" in reasons["c"]
    assert "feeds twice" in reasons["d"]
    assert "more than once" in reasons["twice"]
    assert "(add)" in reasons["e"]
    assert "outputs" in reasons["fc"]


def test_functional_spellings_and_shape_queries_are_followed() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 3, 3, padding=1)
            self.fc1, self.fc2 = nn.Linear(12, 5), nn.Linear(5, 2)

        def forward(self, x):
            x = max_pool2d(self.conv(x).relu_(), 2)
            x = x.reshape(x.shape[0], -1)
            return self.fc2(dropout(nn.functional.leaky_relu(self.fc1(x), 0.1), 0.5, self.training))

    groups, _ = find_units(Functional(), torch.randn(2, 1, 4, 4))
    assert [(group.name, group.size) for group in groups] == [("conv", 3), ("fc1", 5)]
    assert Slice("fc1.weight", 1, span=4) in groups[0].slices


@pytest.mark.parametrize(
    ("padded", "prunable"),
    [
        (nn.ZeroPad2d(1), True),
        (nn.ZeroPad2d((1, 0, 2, 0)), True),
        (nn.ConstantPad2d(1, 0.0), True),
        (nn.ConstantPad2d(1, 2.0), False),
        (lambda x: pad(x, (1, 1)), True),
        (lambda x: pad(x, (1, 1, 1, 1), "constant"), True),
        (lambda x: pad(x, [1, 1], "constant", 0.0), True),
        (lambda x: torch.ops.aten.pad(x, [1, 1], "constant"), True),
        (lambda x: pad(x, [1, 1], mode="constant", value=0), True),
        (lambda x: pad(x, [1, 1], "constant", 1.0), False),
        (lambda x: pad(x, [1, 1], value=1.0), False),
        (lambda x: pad(x, (0, 0, 0, 0, 1, 1)), False),
    ],
)
def test_units_pass_padding_with_zeros_behind_them_however_it_is_written(padded, prunable) -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.padded = nn.Conv2d(1, 4, 1), padded
            self.b, self.fc = nn.Conv2d(width, 3, 1), nn.Linear(3, 2)

        def forward(self, x):
            return self.fc(self.b(self.padded(relu(self.a(x)))).mean((2, 3)))

    width = padded(torch.zeros(1, 4, 2, 2)).shape[1]
    groups, reasons = find_units(Padded(), torch.randn(2, 1, 4, 4))
    assert ("a" in [group.name for group in groups]) == prunable
    assert ("a" in reasons) != prunable


def test_the_output_layer_is_found_behind_what_follows_it(toy_conv) -> None:
    model = nn.Sequential(toy_conv, nn.Identity(), nn.LogSoftmax(1))
    graph = trace_with_shapes(model, torch.randn(2, 1, 4, 4))
    assert output_layers(graph) == ["0.fc2"]
    assert {layer.name: layer.is_output for layer in find_layers(model, graph)} == {
        "0.conv": False,
        "0.fc1": False,
        "0.fc2": True,
    }


def test_tied_weights_are_one_layer_and_not_prunable_by_unit() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    model[2].weight = model[0].weight
    example = torch.randn(2, 4)
    layers = find_layers(model, trace_with_shapes(model, example))
    assert [(layer.name, layer.weight, layer.is_tied) for layer in layers] == [
        ("0", "0.weight", False),
        ("2", "0.weight", True),
        ("4", "4.weight", False),
    ]
    groups, reasons = find_units(model, example)
    assert groups == []
    assert "more than once" in reasons["0"]


@pytest.mark.parametrize("num_units", [4, 6])
def test_units_whose_bias_another_layer_has_as_well_are_not_prunable(num_units) -> None:
    """Masked with one layer's unit, it would be missing in a unit of the other that is kept."""
    model = nn.Sequential(nn.Linear(4, num_units), nn.ReLU(), nn.Linear(num_units, num_units), nn.Linear(num_units, 2))
    model[2].bias = model[0].bias
    groups, reasons = find_units(model, torch.randn(2, 4))
    assert groups == []
    assert {layer: "bias" in reasons[layer] for layer in ("0", "2")} == {"0": True, "2": True}

    normed = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    normed[3].bias = normed[1].bias
    assert find_units(normed, torch.randn(2, 4))[0] == []


def test_unit_scores_reduce_incoming_weights_and_add_coupled_layers() -> None:
    groups, _ = find_units(Residual(), torch.randn(2, 2, 8, 8))
    group = groups[0]
    scores = {part.name: torch.ones(6, 2) * torch.arange(6.0).view(-1, 1) for part in group.incoming}
    norms = unit_scores(scores, [group], "magnitude")["stem"]
    torch.testing.assert_close(norms, 2 * 2**0.5 * torch.arange(6.0))
    torch.testing.assert_close(unit_scores(scores, [group], "taylor")["stem"], 4 * torch.arange(6.0))
    ready = {"stem": torch.arange(6.0)}
    assert unit_scores(ready, [group], "activation")["stem"] is ready["stem"]


def test_looking_leaves_the_model_as_it_is(toy_conv) -> None:
    before, modes = copy.deepcopy(toy_conv.state_dict()), [m.training for m in toy_conv.modules()]
    find_units(toy_conv, torch.randn(8, 1, 4, 4))
    assert all(torch.equal(before[key], value) for key, value in toy_conv.state_dict().items())
    assert modes == [m.training for m in toy_conv.modules()]


def test_what_cannot_be_traced_is_refused() -> None:
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UntraceableError, match="cannot trace"):
        find_units(Branches(), torch.randn(2, 3))
    with pytest.raises(UntraceableError, match="does not run"):
        find_units(nn.Linear(3, 2), torch.randn(2, 4))
    parametrised = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    with pytest.raises(UntraceableError, match="parametrisation"):
        find_units(nn.Sequential(parametrised), torch.randn(2, 3))
