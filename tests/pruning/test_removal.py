"""The smaller network computes what the masked one does: in evaluation, in training, read and written."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn
from toy_networks import Dense, Fire, Inverted, Normalised, Squeeze

from pruning.formats.architectures import ARCHITECTURES, build
from pruning.formats.exported_program import read_program, write_program
from pruning.formats.results import write_state
from pruning.graph import trace
from pruning.iterative import prune_iteratively
from pruning.masks import apply_masks
from pruning.removal import cut, materialize, plan_removal
from pruning.removal_check import RemovalError, check_same
from pruning.reports import removal_report
from pruning.rewinding import restore
from pruning.training import evaluating
from pruning.unit_flow import find_units
from pruning.units import masks_to_unit_masks, unit_masks_to_masks

BATCH = ({0: torch.export.Dim("batch")},)
TOYS = {"inverted": Inverted, "dense": Dense, "fire": Fire, "squeeze": Squeeze}
SHAPES = {"conv6": (3, 8, 8), "resnet20": (3, 8, 8), "vgg16": (3, 32, 32)}


def lived_in(model: nn.Module, seed: int) -> nn.Module:
    """As after training: no parameter or statistic is zero or one."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.dim() == 1:
                tensor.uniform_(0.5, 1.5, generator=draws)
                if not name.endswith("running_var"):
                    tensor.mul_((torch.rand(tensor.shape, generator=draws) < 0.5) * 2 - 1)
    return model


def pruned_by_unit(model: nn.Module, shape, seed: int, density: float = 0.5):
    """(random masks of whole units, at least one kept a group; the groups); the masks are applied to the model."""
    groups, _ = find_units(model, torch.randn(2, *shape))
    draws = torch.Generator().manual_seed(seed)
    unit_masks = {group.name: torch.rand(group.size, generator=draws) < density for group in groups}
    for mask in unit_masks.values():
        mask[int(torch.randint(len(mask), (), generator=draws))] = True
    masks = unit_masks_to_masks(unit_masks, groups, dict(model.named_parameters()))
    apply_masks(dict(model.named_parameters()), masks)
    return masks, unit_masks


def outputs(model: nn.Module, shape, trained: bool, batch: int = 7):
    model = copy.deepcopy(model).train(trained)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        return model(torch.randn(batch, *shape, generator=torch.Generator().manual_seed(8)))


def assert_same(masked: nn.Module, reduced: nn.Module, shape) -> None:
    torch.testing.assert_close(outputs(reduced, shape, False), outputs(masked, shape, False), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs(reduced, shape, True), outputs(masked, shape, True), rtol=1e-3, atol=1e-3)


def exported(model: nn.Module, shape, path):
    torch.export.save(torch.export.export(model.train(), (torch.randn(2, *shape),), dynamic_shapes=BATCH), path)
    return read_program(path)


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


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", TOYS)
def test_programs_of_all_that_units_go_through(name, seed, tmp_path) -> None:
    model = lived_in(TOYS[name](), seed)
    program = exported(model, model.shape, tmp_path / "p.pt2")
    masks, _ = pruned_by_unit(program, model.shape, seed)
    reasons = find_units(program, torch.randn(2, *model.shape))[1]
    output = list(dict(model.named_children()))[-1]
    assert reasons.pop(output) == "its units are the model's outputs"
    assert reasons == ({"depthwise": "its filters go with the units of a, b"} if name == "fire" else {})
    removed = materialize(program, masks, model.shape)
    assert sum(p.numel() for p in removed.module.parameters()) < sum(p.numel() for p in program.parameters())
    assert_same(program, removed.module, model.shape)
    if name != "squeeze":
        apply_masks(dict(model.named_parameters()), masks)
        assert_same(model, materialize(model, masks, model.shape).module, model.shape)


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


def test_normalisations_over_several_units_are_refused_with_the_reason() -> None:
    groups, reasons = find_units(Normalised(), torch.randn(2, *Normalised.shape))
    assert [group.name for group in groups] == ["b"]
    assert "groupnorm), whose statistics are of several units" in reasons["a"]
    assert "layernorm), whose statistics are of several units" in reasons["fc1"]


def test_widths_written_as_numbers_are_refused_where_they_cannot_be_mended(tmp_path) -> None:
    model = lived_in(Squeeze(), 0)
    masks, _ = pruned_by_unit(model, model.shape, 1)
    with pytest.raises(RemovalError, match=r"does not run.*flatten\(1\)"):
        materialize(model, masks, model.shape)


def test_a_program_whose_sizes_split_the_units_names_the_line(tmp_path) -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(2, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.fc2(self.fc1(x).view(-1, 2, 3).reshape(-1, 6))

    program = exported(Heads(), (2,), tmp_path / "p.pt2")
    groups, reasons = find_units(program, torch.randn(2, 2))
    assert groups == []
    assert "view" in reasons["fc1"], "so it is never pruned by unit; a plan that does it all the same is refused"
    index = {"old_size": 6, "new_size": 2, "kept": [0, 5]}
    plan = {"round_to": 1, "groups": [], "tensors": []}
    for name, dim in (("fc1.weight", 0), ("fc1.bias", 0), ("fc2.weight", 1)):
        plan["tensors"].append({"name": name, "dim": dim, **index})
    with pytest.raises(RemovalError, match=r"writes the sizes \(2, 3\).*test_removal\.py, line \d+, in forward"):
        cut(program, plan)


def test_a_network_that_computes_something_else_is_refused() -> None:
    one = lived_in(Inverted(), 0)
    other = copy.deepcopy(one)
    with torch.no_grad():
        other.fc.bias.add_(1)
    with pytest.raises(RemovalError, match="differ by 1, in evaluation mode"):
        check_same(one, other, one.shape)
    other = nn.Sequential(copy.deepcopy(one), nn.Flatten(0))
    with pytest.raises(RemovalError, match="outputs of the shape"):
        check_same(one, other, one.shape)


def test_the_smaller_program_is_written_and_read(tmp_path) -> None:
    model = lived_in(Squeeze(), 3)
    program = exported(model, model.shape, tmp_path / "p.pt2")
    masks, unit_masks = pruned_by_unit(program, model.shape, 4)
    removed = materialize(program, masks, model.shape)
    write_program(tmp_path / "small.pt2", removed.module, model.shape)
    write_state(tmp_path / "small.safetensors", removed.module.state_dict())
    x = torch.randn(5, *model.shape)
    with evaluating(removed.module), torch.no_grad():
        expected = removed.module(x)
    assert torch.equal(torch.export.load(tmp_path / "small.pt2").module()(x), expected)
    again = read_program(tmp_path / "small.pt2")
    groups, _ = find_units(again, x)
    assert {group.name: group.size for group in groups} == {name: int(mask.sum()) for name, mask in unit_masks.items()}


def test_a_masked_unit_emits_exactly_zero_wherever_it_is_active() -> None:
    """In training, with every parameter of the others alive. Not after sigmoid, which nothing reads of masked units."""
    for toy in TOYS.values():
        model = lived_in(toy(), 5)
        example = torch.randn(4, *model.shape)
        groups, _ = find_units(model, example)
        _, unit_masks = pruned_by_unit(model, model.shape, 6)
        watched = {a.name: (a, group) for group in groups if group.keeps_zero for a in group.activations}
        assert watched

        class Watch(torch.fx.Interpreter):
            def run_node(self, n):
                value = super().run_node(n)
                if n.name in watched:
                    part, group = watched[n.name]
                    emitted = part.per_unit(value, group.size).any(1)
                    assert not bool(emitted[~unit_masks[group.name]].any()), (n.name, group.name)
                return value

        with torch.no_grad():
            Watch(trace(model.train())).run(example)


@pytest.mark.parametrize("criterion", ["magnitude", "activation"])
def test_a_job_by_unit_on_what_units_go_through(criterion, tmp_path, make_dataset, make_recipe) -> None:
    dataset = make_dataset(Fire.shape, 3, 32)
    program = exported(Fire(), Fire.shape, tmp_path / "p.pt2")
    recipe = make_recipe(criterion={"name": criterion}, granularity="unit", stop={"rounds": 2})
    *_, last = prune_iteratively(program, dataset, recipe)
    restore(program, last.state)
    removed = materialize(program, last.masks, Fire.shape)
    assert_same(program, removed.module, Fire.shape)
    widths = {layer: group["new_width"] for group in removed.plan["groups"] for layer in group["layers"]}
    assert last.units is not None
    assert widths == {layer: len(kept) for layer, kept in last.units.kept_units.items()}
    assert sum(group["new_width"] for group in removed.plan["groups"]) == last.units.num_units_kept

    report = json.loads(json.dumps(removal_report(program, last.masks, removed, Fire.shape)))
    assert report["before"]["macs"]["dense"] > report["before"]["macs"]["effective"]
    assert report["after"]["macs"]["dense"] == report["after"]["macs"]["effective"]
    assert report["after"]["num_parameters"] < report["after"]["num_parameters_total"]
    assert report["after"]["num_parameters_total"] == sum(p.numel() for p in removed.module.parameters())
    assert report["after"]["latency_ms"]["p50"] > 0


def test_a_plan_needs_no_pruning_by_unit_to_be_made(toy_conv) -> None:
    masks, unit_masks = pruned_by_unit(toy_conv, (1, 4, 4), 0)
    groups, _ = find_units(toy_conv, torch.randn(2, 1, 4, 4))
    back = masks_to_unit_masks(masks, groups)
    assert all(torch.equal(back[name], unit_masks[name]) for name in back)
    plan = plan_removal(toy_conv, masks, groups)
    assert [group["new_width"] for group in plan["groups"]] == [int(mask.sum()) for mask in unit_masks.values()]
