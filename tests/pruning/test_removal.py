"""The smaller network computes what the masked one does: in evaluation, in training, read and written."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from removing import assert_same, lived_in, pruned_by_unit
from torch import nn
from toy_networks import Inverted

from pruning.formats.architectures import ARCHITECTURES, build
from pruning.masks import apply_masks
from pruning.removal import cut, materialize, plan_removal
from pruning.removal_check import RemovalError, check_same
from pruning.unit_flow import find_units
from pruning.units import masks_to_unit_masks, unit_masks_to_masks

SHAPES = {"conv6": (3, 8, 8), "resnet20": (3, 8, 8), "vgg16": (3, 32, 32)}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_pruned_by_unit(name) -> None:
    model = lived_in(build(name, SHAPES.get(name)), 1)
    shape = model.input_shape
    masks, unit_masks = pruned_by_unit(model, shape, 2)
    before = copy.deepcopy(model.state_dict())
    removed = materialize(model, masks, shape)
    assert_same(model, removed.module, shape)
    for group in removed.plan["groups"]:
        assert group["kept_units"] == unit_masks[group["name"]].nonzero().flatten().tolist()
        assert group["new_width"] == len(group["kept_units"])
    assert list(removed.module.state_dict()) == list(before)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items()), "left as it was"
    assert all(bool(mask.all()) for mask in removed.masks.values())
    assert not any(bool((p == 0).all()) for p in removed.module.parameters())
    for path, layer in removed.module.named_modules():
        if isinstance(layer, nn.Linear):
            assert layer.weight.shape == (layer.out_features, layer.in_features), path
        elif isinstance(layer, nn.Conv2d):
            assert layer.weight.shape[:2] == (layer.out_channels, layer.in_channels), path
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean.shape == layer.running_var.shape == (layer.num_features,), path


def test_cut_by_hand_equals_cut_by_plan() -> None:
    """conv -> depthwise -> batch-norm -> beside another, flattened into fc. Units 0 and 3 of conv stay."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.other = nn.Conv2d(1, 4, 1), nn.Conv2d(1, 2, 1)
            self.depthwise, self.bn = nn.Conv2d(4, 4, 1, groups=4), nn.BatchNorm2d(4)
            self.fc = nn.Linear(6 * 4, 2)

        def forward(self, x):
            x, other = self.bn(self.depthwise(self.conv(x))), self.other(x)
            return self.fc(torch.cat([other, x], 1).flatten(1))

    model = Net()
    groups, _ = find_units(model, torch.randn(2, 1, 2, 2))
    assert [(group.name, group.layers) for group in groups] == [("conv", ("conv", "depthwise")), ("other", ("other",))]
    kept = {"conv": torch.tensor([True, False, False, True]), "other": torch.ones(2, dtype=torch.bool)}
    masks = unit_masks_to_masks(kept, groups, dict(model.named_parameters()))
    columns = [*range(8), *range(8, 12), *range(20, 24)]
    assert masks["fc.weight"].all(0).nonzero().flatten().tolist() == columns
    plan = materialize(model, masks, (1, 2, 2)).plan
    assert {(entry["name"], entry["dim"]): entry["kept"] for entry in plan["tensors"]} == {
        **{(f"{layer}.{part}", 0): [0, 3] for layer in ("conv", "depthwise", "bn") for part in ("weight", "bias")},
        **{(f"bn.running_{part}", 0): [0, 3] for part in ("mean", "var")},
        ("fc.weight", 1): columns,
    }
    reduced = cut(model, json.loads(json.dumps(plan)))
    assert torch.equal(reduced.fc.weight, model.fc.weight[:, columns])
    assert (reduced.depthwise.groups, reduced.depthwise.in_channels, reduced.depthwise.out_channels) == (2, 2, 2)
    with pytest.raises(RemovalError, match=r"conv.weight has the shape \(2, 1, 1, 1\), and the plan is for 4"):
        cut(reduced, plan)


@pytest.mark.parametrize(("round_to", "widths"), [(1, [3, 1]), (2, [4, 2]), (4, [4, 4]), (8, [8, 6]), (64, [9, 6])])
def test_widths_are_multiples_and_what_is_kept_back_stays_masked(round_to, widths) -> None:
    model = nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 2))
    groups, _ = find_units(model, torch.randn(2, 5))
    kept = {"0": torch.arange(9) >= 6, "2": torch.arange(6) == 4}
    masks = unit_masks_to_masks(kept, groups, dict(model.named_parameters()))
    apply_masks(dict(model.named_parameters()), masks)
    removed = materialize(model, masks, (5,), round_to)
    assert [group["new_width"] for group in removed.plan["groups"]] == widths
    assert_same(model, removed.module, (5,))
    assert {6, 7, 8} <= set(removed.plan["groups"][0]["kept_units"])
    assert int(removed.masks["0.bias"].sum()) == 3
    for name, parameter in removed.module.named_parameters():
        if name in removed.masks:
            assert removed.masks[name].shape == parameter.shape
            assert bool((parameter[~removed.masks[name]] == 0).all())


def test_single_weights_that_leave_units_dead() -> None:
    """Unit 0 reaches nobody; unit 1 emits nothing; unit 2 emits its bias; unit 3 has one weight left on each side."""

    def masked(activation: nn.Module):
        model = nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 2))
        with torch.no_grad():
            model[0].bias.copy_(torch.tensor([1.0, 0.0, 1.0, 0.0]))
        masks = {"0.weight": torch.ones(4, 3, dtype=torch.bool), "2.weight": torch.ones(2, 4, dtype=torch.bool)}
        masks["0.weight"][1:3], masks["0.weight"][3, :2] = False, False
        masks["2.weight"][:, 0], masks["2.weight"][0, 3] = False, False
        apply_masks(dict(model.named_parameters()), masks)
        return model, masks

    for activation, kept in ((nn.ReLU(), [2, 3]), (nn.Sigmoid(), [1, 2, 3])):
        model, masks = masked(activation)
        removed = materialize(model, masks, (3,))
        assert removed.plan["groups"][0]["kept_units"] == kept
        assert_same(model, removed.module, (3,))
    model, masks = masked(nn.ReLU())
    with torch.no_grad():
        model[2].weight.zero_()  # kept weights that happen to be zero do not count as pruned
    assert materialize(model, masks, (3,)).plan["groups"][0]["kept_units"] == [2, 3]


def test_no_layer_is_emptied() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    groups, _ = find_units(model, torch.randn(2, 3))
    masks = unit_masks_to_masks({"0": torch.zeros(4, dtype=torch.bool)}, groups, dict(model.named_parameters()))
    for round_to, kept in ((1, [0]), (2, [0, 1])):
        removed = materialize(model, masks, (3,), round_to)
        assert removed.plan["groups"][0]["kept_units"] == kept
        assert bool((removed.module[0].weight == 0).all())


def test_without_masks_nothing_goes() -> None:
    model = lived_in(Inverted(), 0)
    removed = materialize(model, {}, model.shape)
    assert removed.plan["tensors"] == []
    assert all(torch.equal(model.state_dict()[key], value) for key, value in removed.module.state_dict().items())


def test_a_network_that_computes_something_else_is_refused() -> None:
    one = lived_in(Inverted(), 0)
    other = copy.deepcopy(one)
    with torch.no_grad():
        other.fc.bias.add_(1)
    with pytest.raises(RemovalError, match="differ by 1, in evaluation mode"):
        check_same(one, other, one.shape)
    for model in (one, other):
        with torch.no_grad():
            model.fc.weight.mul_(1e-6)
            model.fc.bias.mul_(1e-6)
    with pytest.raises(RemovalError, match="differ by 1e-06, in evaluation mode"):
        check_same(one, other, one.shape)  # small outputs, too, are compared by their own size
    with torch.no_grad():
        other.fc.bias.fill_(float("nan"))
    with pytest.raises(RemovalError, match="differ by nan"):
        check_same(one, other, one.shape)
    other = nn.Sequential(copy.deepcopy(one), nn.Flatten(0))
    with pytest.raises(RemovalError, match="outputs of the shape"):
        check_same(one, other, one.shape)


def test_a_plan_needs_no_pruning_by_unit_to_be_made(toy_conv) -> None:
    masks, unit_masks = pruned_by_unit(toy_conv, (1, 4, 4), 0)
    groups, _ = find_units(toy_conv, torch.randn(2, 1, 4, 4))
    back = masks_to_unit_masks(masks, groups)
    assert all(torch.equal(back[name], unit_masks[name]) for name in back)
    plan = plan_removal(toy_conv, masks, groups)
    assert [group["new_width"] for group in plan["groups"]] == [int(mask.sum()) for mask in unit_masks.values()]
