"""Every named strategy runs, does what its row says, and goes on after a cut to the same bits."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from pruning import trainer
from pruning.criteria import CRITERIA, Criterion
from pruning.iterative import Resume, Stored, prune_iteratively
from pruning.learning_rates import rate_of
from pruning.recipe import Recipe
from pruning.schedules import RecipeRefused
from pruning.strategies import STRATEGIES
from pruning.training_options import LearningRate

ADAM = {"name": "adam", "lr": 0.01}
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


def test_reinit_draws_weights_of_the_first_ones_distribution_anew_each_round(make_dataset, make_recipe) -> None:
    """Biases, normalisations and buffers are as they first were; the same seed draws the same."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 400), nn.BatchNorm1d(400), nn.ReLU(), nn.Linear(400, 3))
    with torch.no_grad():
        model[1].weight.mul_(3).add_(0.5)
        model[2].weight.fill_(0.7)
    untrained = {"steps": 1, "batch_size": 16, "optimizer": {"name": "sgd", "lr": 1e-12}}
    recipe = make_recipe(between_rounds={"weights": "reinit"}, training=untrained)
    dataset = make_dataset((1, 4, 4), 3, 60)
    first, (_, one, two) = model.state_dict(), run(model, dataset, recipe)
    for round_ in (one, two):
        kept = round_.masks["1.weight"]
        fresh, were = round_.state["1.weight"][kept], first["1.weight"]
        assert not torch.isclose(fresh, were[kept]).any()
        assert float(fresh.mean()) == pytest.approx(float(were.mean()), abs=0.05)
        assert float(fresh.std()) == pytest.approx(float(were.std()), rel=0.05)
        torch.testing.assert_close(round_.state["1.bias"], first["1.bias"])
        torch.testing.assert_close(round_.state["2.weight"], first["2.weight"])
    assert not torch.isclose(one.state["1.weight"], two.state["1.weight"])[two.masks["1.weight"]].any()
    same(two.state, run(model, dataset, recipe)[2].state)


@pytest.mark.parametrize("name", ["random_reinit", "random_mask"])
def test_a_control_has_the_rounds_budget_and_is_never_fed_back(name, toy_conv, make_dataset, monkeypatch) -> None:
    dataset, trainings = make_dataset((1, 4, 4), 3, 60), []
    real = trainer.train

    def spy(model, masks, data, training, **options):
        start = {key: value.clone() for key, value in model.state_dict().items()}
        asked = {key: options[key] for key in ("seed", "epoch_offset", "first_step")}
        trainings.append((start, {key: mask.clone() for key, mask in masks.items()}, training, asked))
        return real(model, masks, data, training, **options)

    monkeypatch.setattr(trainer, "train", spy)
    with_control = run(toy_conv, dataset, recipe_of(name))
    monkeypatch.undo()
    plain = run(toy_conv, dataset, recipe_of(name, controls=[]))
    for one, other in zip(with_control, plain, strict=True):
        same(one.state, other.state)
        same(one.masks, other.masks)
        assert one.metrics == other.metrics

    first = toy_conv.state_dict()
    assert len(trainings) == 1 + 2 * 3
    for (start, masks, *asked), (control_start, control_masks, *control_asked) in zip(
        trainings[1::2], trainings[2::2], strict=True
    ):
        assert asked == control_asked, "data order, steps and all"
        for key, mask in masks.items():
            assert int(control_masks[key].sum()) == int(mask.sum()), "layer by layer"
            assert not control_start[key][~control_masks[key]].any()
            if name == "random_mask":
                assert torch.equal(control_start[key], first[key] * control_masks[key])
            else:
                assert torch.equal(control_masks[key], mask)
                assert not torch.isclose(control_start[key], start[key])[mask].any()
        if name == "random_mask":
            assert any(not torch.equal(control_masks[key], mask) for key, mask in masks.items())
        for key in control_start.keys() - masks.keys():
            assert torch.equal(control_start[key], first[key]), "biases and normalisations"


def control_masks(monkeypatch, model, dataset, recipe) -> tuple[list[dict], list[dict]]:
    """(the masks of the last round and of its control, the controls' reports by round)."""
    seen, real = [], trainer.train

    def spy(model, masks, *args, **options):
        seen.append({key: mask.clone() for key, mask in masks.items()})
        return real(model, masks, *args, **options)

    monkeypatch.setattr(trainer, "train", spy)
    rounds = run(model, dataset, recipe)
    return seen[-2:], [round_.controls["random_mask"] for round_ in rounds[1:]]


@pytest.mark.parametrize("structure", ["2:4", "row"])
def test_a_random_mask_has_the_rounds_structure(structure, toy_conv, make_dataset, make_recipe, monkeypatch) -> None:
    ignored = {"conv": {"ignore": True}, "fc2": {"ignore": True}}
    recipe = make_recipe(
        granularity="2:4" if structure == "2:4" else "weight",
        scope={"kind": "row" if structure == "row" else "layerwise", "overrides": ignored},
        schedule={"kind": "one_shot", "sparsity": 0.5},
        stop={"rounds": None},
        controls=["random_mask"],
    )
    (masks, control), reports = control_masks(monkeypatch, toy_conv, make_dataset((1, 4, 4), 3), recipe)
    width = 4 if structure == "2:4" else 16
    assert masks["fc1.weight"].view(-1, width).sum(1).tolist() == [width // 2] * (96 // width)
    assert control["fc1.weight"].view(-1, width).sum(1).tolist() == [width // 2] * (96 // width)
    assert not torch.equal(control["fc1.weight"], masks["fc1.weight"])
    assert [report["connected"] for report in reports] == [True]


def test_a_random_mask_of_a_convolution_keeps_2_of_4_neighbours_along_the_inputs(
    make_dataset, make_recipe, monkeypatch
) -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))
    recipe = make_recipe(
        granularity="2:4",
        schedule={"kind": "one_shot", "sparsity": 0.5},
        stop={"rounds": None},
        controls=["random_mask"],
    )
    (masks, control), _ = control_masks(monkeypatch, model, make_dataset((4, 4, 4), 3), recipe)
    assert control["0.weight"].shape == masks["0.weight"].shape
    assert set(control["0.weight"].movedim(1, -1).reshape(-1, 4).sum(1).tolist()) == {2}


def test_a_random_mask_that_cuts_the_network_is_reported_and_fails_nothing(
    make_dataset, make_recipe, monkeypatch
) -> None:
    """One weight of 16 in and one of 16 out, at random, seldom meet in a unit; synflow's always do."""
    with torch.random.fork_rng():
        torch.manual_seed(0)  # how many weights synflow leaves to a layer depends on them
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    reports = []
    for seed in range(4):
        recipe = make_recipe(
            criterion={"name": "synflow"},
            scope={"kind": "global"},
            schedule={"kind": "one_shot", "sparsity": 0.93},
            stop={"rounds": None},
            controls=["random_mask"],
            seed=seed,
        )
        (masks, control), (report,) = control_masks(monkeypatch, model, make_dataset((4,), 3), recipe)
        meets = (control["0.weight"].any(1) & control["2.weight"].any(0)).any()
        assert report["connected"] == bool(meets)
        reports.append(report["connected"])
        assert {name: int(mask.sum()) for name, mask in control.items()} == {
            name: int(mask.sum()) for name, mask in masks.items()
        }
        monkeypatch.undo()
    assert False in reports


def test_seconds_and_patience_end_the_loop(toy_conv, make_dataset, make_recipe, monkeypatch) -> None:
    dataset = make_dataset((1, 4, 4), 3, 60)
    assert [r.number for r in run(toy_conv, dataset, make_recipe(stop={"seconds": 1e-9}))] == [0]
    told = iter([0.5, 0.6, 0.6, 0.4, 0.7])

    def evaluate(model, split, preprocessing, loss):
        return {"accuracy": next(told) if split is dataset.validation else 0.0, "loss": 1.0}

    monkeypatch.setattr(trainer, "evaluate", evaluate)
    gentle = {"schedule": {"fraction": 0.1}}
    rounds = run(toy_conv, dataset, make_recipe(**gentle, stop={"patience": 2, "rounds": 9}))
    assert [r.number for r in rounds] == [0, 1, 2, 3], "as good as before is no better"


def test_what_becomes_of_the_learning_rate_from_round_to_round(
    toy_conv, make_dataset, make_recipe, monkeypatch
) -> None:
    """Cosine over 8 steps, two rounds and a final entry, which begins anew whatever came before."""
    dataset, cosine = make_dataset((1, 4, 4), 3, 60), rate_of(LearningRate(kind="cosine"))
    whole = [cosine(step, 8) for step in range(8)]
    real, seen = trainer.train, []

    def spy(*args, first_step, rate, **options):
        used = rate or cosine
        seen.append([used(step, 8) for step in range(first_step, 8)])
        return real(*args, first_step=first_step, rate=rate, **options)

    monkeypatch.setattr(trainer, "train", spy)
    for mode, later in [
        ("restart", [whole, whole]),
        ("rewind", [whole[3:], whole[3:]]),
        ("constant", [[whole[-1]] * 8] * 2),
        ("continue", [[cosine(8 * n + step, 24) for step in range(8)] for n in (1, 2)]),
    ]:
        seen.clear()
        between = {"weights": "continue", "learning_rate": mode, "step": 3 if mode == "rewind" else None}
        training = {**SMALL, "optimizer": {"name": "sgd", "lr": 0.01}, "learning_rate": {"kind": "cosine"}}
        final = {"finally": {"weights": "reset", "train": True}}
        run(toy_conv, dataset, make_recipe(between_rounds=between, training=training, **final))
        first = whole if mode != "continue" else [cosine(step, 24) for step in range(8)]
        assert seen == [first, *later, whole], mode


@pytest.mark.parametrize("weights", ["reset", "continue"])
def test_where_the_learning_rate_alone_is_rewound_the_ticket_is_of_the_first_weights(
    weights, toy_conv, make_dataset, make_recipe
) -> None:
    dataset = make_dataset((1, 4, 4), 3, 60)
    between = {"weights": weights, "learning_rate": "rewind", "step": 3}
    for round_ in run(toy_conv, dataset, make_recipe(between_rounds=between)):
        for key, first in toy_conv.state_dict().items():
            mask = round_.masks.get(key, torch.ones(first.shape, dtype=torch.bool))
            assert torch.equal(round_.ticket[key], first.masked_fill(~mask, 0)), key


def test_a_rewound_final_entry_trains_as_a_rewound_round_does(toy_conv, make_dataset, make_recipe) -> None:
    """From the step on that its weights are from: under the same masks it is the last round once more."""
    recipe = make_recipe(
        between_rounds={"weights": "rewind", "step": 2, "learning_rate": "rewind"},
        training={**SMALL, "steps": 6, "optimizer": ADAM, "learning_rate": {"kind": "cosine"}},
        stop={"rounds": 2},
        **{"finally": {"weights": "rewind", "train": True}},
    )
    *_, last, final = prune_iteratively(toy_conv, make_dataset((1, 4, 4), 3, 60), recipe)
    assert (last.steps, final.steps) == (4, 4)
    same(last.state, final.state)


def test_a_reinit_control_draws_other_weights_than_the_round(toy_conv, make_dataset, make_recipe) -> None:
    recipe = make_recipe(between_rounds={"weights": "reinit"}, controls=["random_reinit"], stop={"rounds": 1})
    _, pruned = prune_iteratively(toy_conv, make_dataset((1, 4, 4), 3, 60), recipe)
    assert pruned.controls["random_reinit"]["metrics"]["train"]["loss"] != pruned.metrics["train"]["loss"]


def test_what_makes_no_sense_of_continued_training_is_refused(make_recipe) -> None:
    with pytest.raises(ValidationError, match="leave controls out"):
        make_recipe(between_rounds={"weights": "continue"}, controls=["random_mask"])
    with pytest.raises(ValidationError, match=r"give stop\.rounds"):
        make_recipe(between_rounds={"weights": "continue", "learning_rate": "continue"}, stop={"sparsity": 0.5})
