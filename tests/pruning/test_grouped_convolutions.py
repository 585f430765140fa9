"""Units at grouped convolutions: masked one by one, cut so that the groups stay alike."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from removing import assert_same, exported, lived_in, pruned_by_unit
from torch import nn
from torch.nn.functional import max_pool2d, relu
from toy_networks import Bundled, Cardinal

from pruning.formats.exported_program import read_program, write_program
from pruning.intake import inspect_model
from pruning.iterative import prune_iteratively
from pruning.masks import apply_masks
from pruning.removal import cut, materialize
from pruning.removal_check import RemovalError
from pruning.rewinding import restore
from pruning.schedules import LayerSize, RecipeRefused, layer_sizes, plan
from pruning.training import evaluating
from pruning.unit_blocks import anchored, find_blocks, least_units
from pruning.unit_flow import find_units
from pruning.unit_widths import widths_that_fit
from pruning.units import Slice, UnitGroup, masks_to_unit_masks, unit_masks_to_masks

TOYS = {"cardinal": Cardinal, "bundled": Bundled}
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def chain(num_dims: int = 2) -> nn.Sequential:
    """4 inputs -> 6 units -> 2 groups -> 8 units -> 3."""
    conv = CONVOLUTIONS[num_dims]
    return nn.Sequential(conv(4, 6, 1), nn.ReLU(), conv(6, 8, 1, groups=2), nn.ReLU(), conv(8, 3, 1))


def masked(model: nn.Module, shape, unit_masks: dict[str, list[int]]):
    """The masks that keep only those units of those groups, applied."""
    groups, _ = find_units(model, torch.randn(2, *shape))
    kept = {group.name: torch.ones(group.size, dtype=torch.bool) for group in groups}
    for name, units in unit_masks.items():
        kept[name] = torch.zeros_like(kept[name]).index_fill(0, torch.tensor(units, dtype=torch.long), True)
    masks = unit_masks_to_masks(kept, groups, dict(model.named_parameters()))
    apply_masks(dict(model.named_parameters()), masks)
    return masks


def assert_fits(module: nn.Module) -> None:
    for path, layer in module.named_modules():
        if isinstance(layer, tuple(CONVOLUTIONS.values())):
            assert layer.weight.shape[:2] == (layer.out_channels, layer.in_channels // layer.groups), path
            assert layer.out_channels % layer.groups == layer.in_channels % layer.groups == 0, path
            assert layer.weight.numel() > 0, path


def kept_units(removed) -> dict[str, list[int]]:
    return {group["name"]: group["kept_units"] for group in removed.plan["groups"]}


def test_units_of_a_resnext_block() -> None:
    groups, reasons = find_units(Cardinal(), torch.randn(2, *Cardinal.shape))
    assert {group.name: (group.layers, group.size) for group in groups} == {
        "stem": (("stem", "expand"), 8),
        "reduce": (("reduce",), 12),
        "grouped": (("grouped",), 18),
    }
    assert list(reasons) == ["fc"]
    _, reduce, grouped = groups
    assert reduce.outgoing == (Slice("grouped.weight", 1, blocks=3),)
    assert grouped.incoming == (Slice("grouped.weight", 0, blocks=3),)


def test_a_masked_input_loses_exactly_the_weights_that_see_it() -> None:
    """Of 2 groups of 3 inputs and 4 filters: unit 4 is the second group's input 1, so only filters 4 to 7 see it."""
    model = lived_in(chain(), 0)
    masks = masked(model, (4, 3, 3), {"0": [0, 1, 2, 3, 5]})
    expected = torch.ones(8, 3, 1, 1, dtype=torch.bool)
    expected[4:, 1] = False
    assert torch.equal(masks["2.weight"], expected)
    groups, _ = find_units(model, torch.randn(2, 4, 3, 3))
    own = groups[0].outgoing[0].per_unit(masks["2.weight"], 6)
    assert own.shape == (6, 4)
    assert own.all(1).tolist() == own.any(1).tolist() == [True, True, True, True, False, True]


@pytest.mark.parametrize("name", TOYS)
def test_masked_units_reach_nobody_whatever_they_hold(name) -> None:
    """Their outgoing slices are zero and nothing else is: outputs stay equal whatever is put in at the nodes."""
    model = lived_in(TOYS[name](), 1)
    masks, unit_masks = pruned_by_unit(model, model.shape, 2)
    groups, _ = find_units(model, torch.randn(2, *model.shape))
    parameters = dict(model.named_parameters())
    x = torch.randn(3, *model.shape)
    with evaluating(model), torch.no_grad():
        before = model(x)
        for group in groups:
            own = [part for part in group.slices if part not in group.outgoing]
            for part in own:
                values = parameters[part.name]
                for unit in (~unit_masks[group.name]).nonzero().flatten().tolist():
                    values.narrow(part.dim, part.offset + unit * part.span, part.span).fill_(3.0)
        # Through what is their own they are alive again; what they own at grouped convolutions is still zero.
        for group in groups:
            for part in group.outgoing:
                values = part.per_unit(masks[part.name], group.size)
                parameters[part.name].masked_fill_(~masks[part.name], 0.0)
                assert not bool(values[~unit_masks[group.name]].any())
        torch.testing.assert_close(model(x), before)


def test_masks_and_unit_masks_are_inverse_where_a_group_has_no_input_left() -> None:
    model = lived_in(chain(), 0)
    masks = masked(model, (4, 3, 3), {"0": [0, 1], "2": [0, 5, 6]})
    assert not bool(masks["2.weight"][5:].any()), "filters 5 and 6 see masked units alone"
    groups, _ = find_units(model, torch.randn(2, 4, 3, 3))
    back = masks_to_unit_masks(masks, groups)
    assert {name: mask.nonzero().flatten().tolist() for name, mask in back.items()} == {"0": [0, 1], "2": [0, 5, 6]}


@pytest.mark.parametrize("num_dims", CONVOLUTIONS)
def test_the_plan_keeps_of_each_group_its_own_and_as_many(num_dims) -> None:
    model, shape = lived_in(chain(num_dims), 0), (4, *[3] * num_dims)
    masks = masked(model, shape, {"0": [1, 2, 4], "2": [0, 3, 6]})
    removed = materialize(model, masks, shape)
    # One of the second group's masked inputs, and of its masked filters, makes up for what the first has more.
    assert kept_units(removed) == {"0": [1, 2, 3, 4], "2": [0, 3, 4, 6]}
    cuts = {(entry["name"], entry["dim"]): entry for entry in removed.plan["tensors"]}
    assert cuts["2.weight", 0]["kept"] == [0, 3, 4, 6]
    assert "blocks" not in cuts["2.weight", 0]
    inputs = {"old_size": 6, "new_size": 4, "kept": [1, 2, 3, 4], "blocks": 2}
    assert cuts["2.weight", 1] == {"name": "2.weight", "dim": 1, **inputs}
    weight = model[2].weight
    by_hand = torch.cat([weight[[0, 3]][:, [1, 2]], weight[[4, 6]][:, [0, 1]]])
    assert torch.equal(removed.module[2].weight, by_hand)
    assert (removed.module[2].groups, removed.module[2].in_channels, removed.module[2].out_channels) == (2, 4, 4)
    assert_same(model, removed.module, shape)
    kept = {name: mask.flatten(1).any(1).tolist() for name, mask in removed.masks.items() if name.endswith("weight")}
    assert kept["0.weight"] == [True, True, False, True], "what came back is masked still"
    assert kept["2.weight"] == [True, True, False, True]
    again = cut(model, json.loads(json.dumps(removed.plan)))
    assert torch.equal(again[2].weight, by_hand)
    with pytest.raises(RemovalError, match=r"2.weight has the shape \(4, 2.*the plan is for"):
        cut(again, {**removed.plan, "tensors": [cuts["2.weight", 1]]})


@pytest.mark.parametrize(
    ("round_to", "widths"), [(1, [4, 4]), (2, [4, 4]), (3, [6, 6]), (4, [4, 4]), (8, [6, 8]), (64, [6, 8])]
)
def test_widths_are_multiples_of_both(round_to, widths) -> None:
    model, shape = lived_in(chain(), 0), (4, 3, 3)
    masks = masked(model, shape, {"0": [1, 2, 4], "2": [0, 3, 6]})
    removed = materialize(model, masks, shape, round_to)
    assert [group["new_width"] for group in removed.plan["groups"]] == widths
    assert_same(model, removed.module, shape)


def test_no_group_is_emptied() -> None:
    model, shape = lived_in(chain(), 0), (4, 3, 3)
    masks = masked(model, shape, {"0": [], "2": [5, 7]})
    removed = materialize(model, masks, shape)
    assert kept_units(removed) == {"0": [0, 3], "2": [0, 1, 5, 7]}
    assert_same(model, removed.module, shape)


@given(seed=st.integers(0, 10_000), density=st.floats(0.0, 1.0), round_to=st.sampled_from([1, 1, 2, 3, 4, 8]))
@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("name", TOYS)
def test_random_masks(name, seed, density, round_to) -> None:
    model = lived_in(TOYS[name](), seed)
    masks, _ = pruned_by_unit(model, model.shape, seed, density)
    removed = materialize(model, masks, model.shape, round_to)
    assert_same(model, removed.module, model.shape)
    assert_fits(removed.module)
    parameters = dict(removed.module.named_parameters())
    for parameter, mask in removed.masks.items():
        assert mask.shape == parameters[parameter].shape
        assert not bool(parameters[parameter][~mask].any())
    for group in removed.plan["groups"]:
        width = group["new_width"]
        assert width == len(group["kept_units"]) > 0
        assert width % round_to == 0 or width == group["old_width"]


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_widths_that_fit_several_convolutions_at_once(data) -> None:
    """Units of one group in convolutions of 2, 3 and 4 groups, some behind fixed inputs, with every `round_to`."""
    alive = {"a": torch.tensor(data.draw(st.lists(st.booleans(), min_size=24, max_size=24)))}
    blocks = data.draw(st.sets(st.sampled_from([2, 3, 4, 6]), max_size=3))
    offset, round_to = data.draw(st.sampled_from([0, 12, 24])), data.draw(st.sampled_from([1, 2, 5, 8]))
    parts = tuple(Slice(f"w{n}", 1, offset=offset, blocks=n) for n in sorted(blocks))
    group = UnitGroup("a", 24, ("a",), parts, parts, ())
    weights = {part.name: torch.empty(part.blocks * 5, (24 + offset) // part.blocks) for part in parts}
    kept = widths_that_fit(alive, [group], weights, round_to)["a"]
    assert bool(kept[alive["a"]].all())
    assert int(kept.sum()) == 24 or int(kept.sum()) % round_to == 0
    for part in parts:
        per_block = part.spread(kept, 24 + offset).view(part.blocks, -1).sum(1)
        assert len(per_block.unique()) == 1
        assert int(per_block[0]) > 0
    if len(blocks) == 1 and offset == 0 and round_to == 1:
        (n,) = blocks
        assert int(kept.sum()) == n * max(1, int(alive["a"].view(n, -1).sum(1).max())), "the fewest that fit"


LEAST = {
    "cardinal": {"stem": 1, "reduce": 3, "grouped": 3},
    # plain: its last unit enters two groups, the second for all that else could; first: its own two groups.
    # joined and by_three: of 4 smaller and 3 or 2 larger groups, one holds none of the smaller whole.
    "bundled": {"plain": 1, "first": 2, "joined": 5, "by_three": 5, "last": 2},
}


@pytest.mark.parametrize("name", TOYS)
def test_what_always_stays_is_known_before_anything_runs(name, make_recipe) -> None:
    model = TOYS[name]()
    sizes = layer_sizes(json.loads(json.dumps(inspect_model(model, model.shape))), "unit")
    least = {size.name: size.least for size in sizes}
    groups, _ = find_units(model, torch.randn(2, *model.shape))
    assert least == least_units(groups, dict(model.named_parameters()))
    assert least == LEAST[name]
    recipe = make_recipe(granularity="unit", stop={"rounds": 100})
    assert plan(sizes, recipe)[-1].remaining == least
    with pytest.raises(RecipeRefused, match="grouped convolutions keep a unit in each group"):
        plan(sizes, make_recipe(granularity="unit", stop={"sparsity": 0.99}))


@pytest.mark.parametrize("scope", ["layerwise", "global"])
@pytest.mark.parametrize("criterion", ["magnitude", "activation", "random", "synflow"])
@pytest.mark.parametrize("name", TOYS)
def test_a_job_by_unit_down_to_the_last(name, criterion, scope, make_dataset, make_recipe) -> None:
    """Exactly k every round, no group of a convolution without an input or a filter, and cut at the end."""
    model = TOYS[name]()
    fields = {"criterion": {"name": criterion}, "scope": {"kind": scope}, "granularity": "unit"}
    recipe = make_recipe(**fields, schedule={"kind": "fraction", "fraction": 0.6}, stop={"rounds": 6})
    groups, _ = find_units(model, torch.randn(2, *model.shape))
    parameters = dict(model.named_parameters())
    sizes = [LayerSize(n, g.size, least=least_units(groups, parameters)[n]) for g in groups for n in [g.name]]
    planned = [sum(round_.remaining.values()) for round_ in plan(sizes, recipe)]
    rounds = list(prune_iteratively(model, make_dataset(model.shape, 3, 32), recipe))
    assert [round_.units.num_units_kept for round_ in rounds] == planned
    last = rounds[-1]
    for blocks in find_blocks(groups, parameters):
        live = blocks.fixed.clone()
        for group, owned in blocks.owned.items():
            live += owned[:, last.units.kept_units[group]].sum(1)
        assert bool((live > 0).all())
    restore(model, last.state)
    removed = materialize(model, last.masks, model.shape)
    assert_same(model, removed.module, model.shape)
    assert_fits(removed.module)


def test_the_best_of_each_set_is_an_anchor_and_ties_are_drawn() -> None:
    sets = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]], dtype=torch.bool)
    scores, kept = torch.tensor([3.0, 9.0, 2.0, 1.0, 1.0, 5.0]), torch.tensor([True] * 5 + [False])
    drawn = set()
    for seed in range(20):
        found = anchored(scores, kept, sets, torch.Generator().manual_seed(seed)).isinf().nonzero().flatten().tolist()
        assert found[0] == 1
        drawn.add(found[1])
    assert drawn == {3, 4}


def test_a_program_with_sizes_as_numbers_is_cut_written_and_read(tmp_path) -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.bn = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
            self.grouped, self.fc = nn.Conv2d(8, 12, 3, padding=1, groups=4), nn.Linear(12 * 9, 3)

        def forward(self, x):
            x = relu(self.grouped(relu(self.bn(self.a(x)))))
            return self.fc(max_pool2d(x, 2).view(-1, 108))

    program = exported(lived_in(Written(), 0), (2, 6, 6), tmp_path / "p.pt2")
    masks = masked(program, (2, 6, 6), {"a": [0, 2, 4, 7], "grouped": [0, 4, 5, 8, 9]})
    removed = materialize(program, masks, (2, 6, 6))
    assert kept_units(removed) == {"a": [0, 2, 4, 7], "grouped": [0, 1, 4, 5, 6, 8, 9, 10]}
    assert_same(program, removed.module, (2, 6, 6))
    assert_fits(removed.module)
    write_program(tmp_path / "small.pt2", removed.module, (2, 6, 6))
    x = torch.randn(5, 2, 6, 6)
    again = read_program(tmp_path / "small.pt2")
    with evaluating(removed.module), evaluating(again), torch.no_grad():
        expected = removed.module(x)
        assert torch.equal(again(x), expected)
        assert torch.equal(torch.export.load(tmp_path / "small.pt2").module()(x), expected)
    # A group of one input each is a depthwise convolution from now on.
    assert (again.grouped.groups, again.grouped.in_channels, again.grouped.out_channels) == (4, 4, 8)
