"""Removal through all that units go through: the toys, as exported programs and as they are."""

from __future__ import annotations

import json

import pytest
import torch
from removing import assert_same, exported, lived_in, pruned_by_unit
from torch import nn
from toy_networks import Bundled, Cardinal, Dense, Fire, Inverted, Multiplied, Normalised, Squeeze

from pruning.formats.exported_program import read_program, write_program
from pruning.formats.results import write_state
from pruning.graph import trace
from pruning.iterative import prune_iteratively
from pruning.masks import apply_masks
from pruning.removal import cut, materialize
from pruning.removal_check import RemovalError
from pruning.reports import removal_report
from pruning.rewinding import restore
from pruning.training import evaluating
from pruning.unit_flow import find_units

TOYS = {
    **{"inverted": Inverted, "dense": Dense, "fire": Fire, "squeeze": Squeeze, "multiplied": Multiplied},
    **{"cardinal": Cardinal, "bundled": Bundled},
}
GUESTS = {
    "fire": {"depthwise": "its filters go with the units of a, b"},
    "multiplied": {
        **dict.fromkeys(("twice", "again"), "its filters go with the units of a"),
        "triple": "its filters go with the units of b, a",
    },
    "bundled": {"twice": "its filters go with the units of plain"},
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", TOYS)
def test_programs_of_all_that_units_go_through(name, seed, tmp_path) -> None:
    model = lived_in(TOYS[name](), seed)
    program = exported(model, model.shape, tmp_path / "p.pt2")
    masks, _ = pruned_by_unit(program, model.shape, seed)
    reasons = find_units(program, torch.randn(2, *model.shape))[1]
    output = list(dict(model.named_children()))[-1]
    assert reasons.pop(output) == "its units are the model's outputs"
    assert reasons == GUESTS.get(name, {})
    removed = materialize(program, masks, model.shape)
    assert sum(p.numel() for p in removed.module.parameters()) < sum(p.numel() for p in program.parameters())
    assert_same(program, removed.module, model.shape)
    if name != "squeeze":
        apply_masks(dict(model.named_parameters()), masks)
        assert_same(model, materialize(model, masks, model.shape).module, model.shape)


@pytest.mark.parametrize("name", TOYS)
def test_a_masked_unit_emits_exactly_zero_wherever_it_is_active(name) -> None:
    """In training, with every parameter of the others alive. Not after sigmoid, which nothing reads of masked units."""
    model = lived_in(TOYS[name](), 5)
    example = torch.randn(4, *model.shape)
    groups, _ = find_units(model, example)
    _, unit_masks = pruned_by_unit(model, model.shape, 6)
    watched = [(a, group) for group in groups if group.keeps_zero for a in group.activations]
    assert watched

    class Watch(torch.fx.Interpreter):
        def run_node(self, n):
            value = super().run_node(n)
            for part, group in watched:
                if part.name == n.name:
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
    with pytest.raises(RemovalError, match=r"writes the sizes \(2, 3\).*test_removal_paths\.py, line \d+, in forward"):
        cut(program, plan)


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
