"""A scan prunes one layer at a time by exactly what is asked for, measures, and leaves the job as it would be."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from pruning.data import with_validation
from pruning.evaluation import evaluate
from pruning.iterative import prune_iteratively
from pruning.reports import round_report

SPARSITIES = [0.25, 0.5, 0.99]


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))
    model.input_shape = (1, 4, 4)
    return model


def scan_of(model, dataset, recipe):
    return next(prune_iteratively(model, dataset, recipe)).sensitivity


def test_each_layer_alone_by_the_least_magnitudes(model, make_dataset, make_recipe) -> None:
    dataset = make_dataset((1, 4, 4), 3, 60)
    training = {"steps": 0, "batch_size": 16, "optimizer": {"name": "adam", "lr": 0.01}}
    recipe = make_recipe(sensitivity={"sparsities": SPARSITIES}, training=training, stop={"rounds": 0})
    (round_,) = prune_iteratively(model, dataset, recipe)
    assert [row["layer"] for row in round_.sensitivity] == ["1", "3", "5"]
    validation = with_validation(dataset, recipe.seed).validation
    for row in round_.sensitivity:
        weight = model.get_submodule(row["layer"]).weight.detach()
        assert row["size"] == weight.numel()
        for asked, point in zip(SPARSITIES, row["points"], strict=True):
            count = min(int(asked * weight.numel() + 0.5), weight.numel() - 1)
            assert point["sparsity"] == count / weight.numel()
            alone = copy.deepcopy(model)
            pruned = alone.get_submodule(row["layer"]).weight.data.flatten()
            pruned[pruned.abs().argsort()[:count]] = 0
            assert point["metrics"] == evaluate(alone, validation, recipe.training.preprocessing)
    report = round_report(round_, model)
    assert json.loads(json.dumps(report))["sensitivity"] == round_.sensitivity
    assert report["seconds"]["sensitivity"] > 0


def test_nothing_is_trained_in_no_steps(model, make_dataset, make_recipe) -> None:
    training = {"steps": 0, "batch_size": 16, "optimizer": {"name": "adam", "lr": 0.01}}
    recipe = make_recipe(training=training, stop={"rounds": 2})
    rounds = list(prune_iteratively(model, make_dataset((1, 4, 4), 3, 60), recipe))
    assert [round_.number for round_ in rounds] == [0, 1, 2]
    for round_ in rounds:
        assert (round_.steps, round_.early_stopping) == (0, None)
        assert round_.metrics["validation"]["loss"] > 0
        for key, value in model.state_dict().items():
            assert torch.equal(round_.state[key], value * round_.masks.get(key, 1))


@pytest.mark.parametrize("criterion", ["magnitude", "activation", "random", "taylor", "snip"])
@pytest.mark.parametrize("keep", ["high", "low"])
def test_units_of_one_group_at_a_time(model, criterion, keep, make_dataset, make_recipe) -> None:
    granularity = {"granularity": "unit", "criterion": {"name": criterion, "keep": keep}}
    recipe = make_recipe(**granularity, sensitivity={"sparsities": SPARSITIES}, stop={"rounds": 0})
    scan = scan_of(model, make_dataset((1, 4, 4), 3, 60), recipe)
    assert {row["layer"]: [point["sparsity"] for point in row["points"]] for row in scan} == {
        "1": [2 / 8, 4 / 8, 7 / 8],
        "3": [1 / 4, 2 / 4, 3 / 4],
    }


@pytest.mark.parametrize("criterion", ["magnitude", "random", "taylor"])
def test_the_rounds_are_those_of_the_job_without_it(model, criterion, make_dataset, make_recipe) -> None:
    dataset, changes = make_dataset((1, 4, 4), 3, 60), {"criterion": {"name": criterion}}
    plain = list(prune_iteratively(model, dataset, make_recipe(**changes)))
    scanned = list(prune_iteratively(model, dataset, make_recipe(**changes, sensitivity=True)))
    assert len(scanned) == len(plain) == 3
    assert [round_.sensitivity is None for round_ in scanned] == [False, True, True]
    for one, other in zip(plain, scanned, strict=True):
        assert one.metrics == other.metrics
        assert all(torch.equal(value, other.state[key]) for key, value in one.state.items())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sensitivity": {"sparsities": [0.5, 0.5]}}, "rising order"),
        ({"sensitivity": {"sparsities": [0.5, 1.0]}}, "less than 1"),
        ({"sensitivity": {"sparsities": []}}, "at least 1 item"),
        (
            {"sensitivity": True, "granularity": "2:4", "schedule": {"kind": "one_shot", "sparsity": 0.5}},
            "with 2:4 a layer has one sparsity",
        ),
    ],
)
def test_scans_that_say_nothing_are_refused(changes, words, make_recipe) -> None:
    with pytest.raises(ValidationError, match=words):
        make_recipe(**changes)
