"""Every named strategy runs, does what its row says, and goes on after a cut to the same bits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pruning.criteria import CRITERIA, Criterion
from pruning.iterative import Resume, Stored, prune_iteratively
from pruning.recipe import Recipe
from pruning.schedules import RecipeRefused
from pruning.strategies import STRATEGIES

SMALL = {"steps": 8, "batch_size": 16, "evaluate_every_steps": 4}


def recipe_of(name, **changes):
    defaults = STRATEGIES[name].defaults
    given = {"strategy": name, "training": SMALL, "seed": 3}
    if defaults["schedule"]["kind"] == "fraction":
        given["stop"] = {"rounds": 3, "accuracy_floor": None}
    if defaults["schedule"]["kind"] == "polynomial":
        given["schedule"] = {"rounds": 3, "sparsity": 0.6}
    if name == "rewind":
        given["between_rounds"] = {"step": 2}
    return Recipe.model_validate(given | changes)


def run(model, dataset, recipe, resume=None):
    return list(prune_iteratively(model, dataset, recipe, resume=resume))


def same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_runs_and_goes_on_to_the_same_bits(name, toy_conv, make_dataset) -> None:
    dataset = make_dataset((1, 4, 4), 3, 60)
    recipe = recipe_of(name)
    rounds = run(toy_conv, dataset, recipe)
    numbered = [round_ for round_ in rounds if round_.number is not None]
    expected = {"one_shot": 1, "polynomial": 3, "fraction": 3}[recipe.schedule.kind]
    assert [round_.number for round_ in numbered] == list(range(expected + 1))
    sparsities = [round_.sparsity_actual for round_ in numbered]
    assert sparsities == sorted(sparsities)
    assert sparsities[-1] > 0.25
    for round_ in rounds:
        for key, mask in round_.masks.items():
            assert not round_.state[key][~mask].any()
    assert [set(round_.controls) for round_ in numbered[1:]] == [set(recipe.controls)] * expected

    cut = rounds[: len(rounds) // 2]
    stored = {r.position: Stored(r.state, r.masks, r.ticket, r.optimizer) for r in cut}
    again = run(toy_conv, dataset, recipe, Resume([r.record for r in cut], stored.__getitem__))
    for one, other in zip(rounds[len(cut) :], again, strict=True):
        same(one.state, other.state)
        same(one.masks, other.masks)
        same(one.ticket, other.ticket)
        assert {name: c["metrics"] for name, c in one.controls.items()} == {
            name: c["metrics"] for name, c in other.controls.items()
        }


def test_rewinding_goes_back_to_the_weights_of_step_k(toy_conv, make_dataset) -> None:
    """A ticket is what round 0 was after k steps; with k = 1 that is one step from the first weights."""
    dataset = make_dataset((1, 4, 4), 3, 60)
    dense, pruned, *_ = run(toy_conv, dataset, recipe_of("rewind", between_rounds={"step": 1}))
    same(
        {k: v for k, v in dense.ticket.items() if k not in pruned.masks},
        {k: v for k, v in pruned.ticket.items() if k not in pruned.masks},
    )
    assert not torch.equal(dense.ticket["fc1.weight"], toy_conv.fc1.weight)
    assert (dense.ticket["fc1.weight"] - toy_conv.fc1.weight).abs().max() < 0.01
    assert (dense.steps, pruned.steps) == (8, 7)


def test_gradual_pruning_is_one_training(toy_conv, make_dataset) -> None:
    """With nothing pruned (the least of schedules rounds to nothing) its rounds are one uninterrupted training."""
    dataset = make_dataset((1, 4, 4), 3, 60)
    toy_conv.dropout.p = 0.0  # whose draws are by stretch
    changes = {
        "scope": {"kind": "layerwise", "overrides": {}},
        "schedule": {"kind": "polynomial", "sparsity": 1e-9, "rounds": 1, "power": 3},
        "training": SMALL | {"learning_rate": {"kind": "cosine"}, "steps": 4, "batch_size": 15},
    }
    two = run(toy_conv, dataset, recipe_of("gradual", **changes))
    once = Recipe.model_validate(
        recipe_of("one_shot").to_json()
        | {
            "strategy": None,
            "training": two and recipe_of("gradual", **changes).to_json()["training"] | {"steps": 8},
            "stop": {"rounds": 1},
            "between_rounds": {"weights": "reset"},
        }
    )
    whole = next(prune_iteratively(toy_conv, dataset, once))
    assert two[1].sparsity_actual == 0
    same(two[1].state, whole.state)


@pytest.mark.parametrize("name", ["taylor", "snip", "grasp", "synflow", "wanda", "apoz"])
def test_criteria_leave_the_model_as_it_is(name, toy_conv, make_dataset, make_recipe) -> None:
    granularity = "unit" if name == "apoz" else "weight"
    recipe = make_recipe(criterion={"name": name}, granularity=granularity, stop={"rounds": 1})
    before = {key: value.clone() for key, value in toy_conv.state_dict().items()}
    flags = [parameter.requires_grad for parameter in toy_conv.parameters()]
    run(toy_conv, make_dataset((1, 4, 4), 3, 60), recipe)
    same(before, toy_conv.state_dict())
    assert flags == [parameter.requires_grad for parameter in toy_conv.parameters()]
    assert all(parameter.grad is None for parameter in toy_conv.parameters())


@pytest.mark.parametrize("name", ["taylor", "snip", "grasp", "wanda"])
def test_a_sample_that_leaves_one_example_over(name, make_dataset, make_recipe) -> None:
    """257 of them are a batch and one more, of which batch-norm in training mode has no deviation."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    recipe = make_recipe(criterion={"name": name}, stop={"rounds": 1})
    _, pruned = run(model, make_dataset((1, 4, 4), 3, 257), recipe)
    assert pruned.sparsity_actual == 0.5


class Float32(nn.Module):
    """As exported programs have it: the type stands in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x.flatten(1).to(torch.float32))))


def test_synflow_of_a_network_that_stays_in_float32(make_dataset, make_recipe) -> None:
    recipe = make_recipe(criterion={"name": "synflow"}, stop={"rounds": 1})
    model, plain = Float32(), nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    plain.load_state_dict(dict(zip(plain.state_dict(), model.state_dict().values(), strict=True)))
    dataset = make_dataset((1, 4, 4), 3, 60)
    (_, ours), (_, theirs) = run(model, dataset, recipe), run(plain, dataset, recipe)
    for one, other in zip(ours.masks.values(), theirs.masks.values(), strict=True):
        assert torch.equal(one, other)


def test_scores_that_are_no_numbers_are_told(toy_conv, make_dataset, make_recipe, monkeypatch) -> None:
    def overflowing(model, masks, evidence):
        return {name: torch.full(mask.shape, torch.nan) for name, mask in masks.items()}

    monkeypatch.setitem(CRITERIA, "grasp", Criterion(overflowing))
    with pytest.raises(RecipeRefused, match="scores that grasp gives layer conv are not all numbers") as caught:
        run(toy_conv, make_dataset((1, 4, 4), 3, 60), make_recipe(criterion={"name": "grasp"}))
    assert caught.value.field == ("criterion", "name")
