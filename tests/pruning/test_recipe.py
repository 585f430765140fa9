from __future__ import annotations

import pytest
from pydantic import ValidationError

from pruning.recipe import OneShotSchedule, Recipe
from pruning.strategies import STRATEGIES


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_alone_is_a_whole_recipe(strategy) -> None:
    recipe = Recipe.model_validate({"strategy": strategy})
    assert Recipe.model_validate(recipe.to_json()) == recipe
    assert "finally" in recipe.to_json()


def test_what_is_given_goes_over_the_strategys_row() -> None:
    recipe = Recipe.model_validate(
        {"strategy": "lottery_ticket_reset", "training": {"epochs": 3}, "stop": {"accuracy_floor": {"value": 0.5}}}
    )
    assert (recipe.training.steps, recipe.training.epochs) == (None, 3)
    assert recipe.training.optimizer.lr == 0.0012
    assert recipe.stop.rounds == 15
    assert recipe.scope.overrides["output"].rate == 0.5
    dropnet = Recipe.model_validate({"strategy": "dropnet", "scope": {"kind": "layerwise"}})
    assert dropnet.granularity == "unit"
    assert dropnet.stop.accuracy_floor.factor == 0.98


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"strategy": "lotery"}, "there is no strategy 'lotery'"),
        ({"strategy": "dropnet", "granularity": "weight"}, "scores units, not single weights"),
        (
            {"strategy": "dropnet", "scope": {"overrides": {"fc1": {"rate": 0.5}}}},
            "no meaning where all layers share",
        ),
        ({"strategy": "dropnet", "stop": {"rounds": None, "accuracy_floor": None}}, "nothing would end the job"),
        ({"strategy": "dropnet", "stop": {"accuracy_floor": {"factor": 0.9, "value": 0.9}}}, "not both"),
        ({"strategy": "dropnet", "training": {"steps": 1, "epochs": 1}}, "exactly one of steps and epochs"),
        ({"strategy": "dropnet", "training": {"preprocessing": {"std": [1, 0]}}}, "std must be greater than 0"),
        ({"strategy": "dropnet", "sparsity": 0.5}, "Extra inputs"),
    ],
)
def test_what_makes_no_sense_is_refused(given, said) -> None:
    with pytest.raises(ValidationError, match=said):
        Recipe.model_validate(given)


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"scope": {"kind": "global", "overrides": {"a": {"rate": 0.5}}}}, "scope.overrides.a.rate"),
        (
            {"scope": {"kind": "row", "overrides": {"output": {"rate": None}, "a": {"rate": 2}}}},
            "scope.overrides.a.rate",
        ),
        ({"scope": {"overrides": {"a": {"min_units": 2}}}}, "scope.overrides.a.min_units"),
        (
            {"granularity": "2:4", "schedule": {"kind": "one_shot", "sparsity": 0.6}, "stop": {"rounds": None}},
            "schedule",
        ),
        ({"schedule": {"kind": "one_shot", "sparsity": 5}, "stop": {"rounds": None}}, "schedule.sparsity"),
        ({"schedule": {"kind": "one_shot", "sparsity": 0.5}}, "scope.overrides.output.rate"),
        ({"schedule": {"kind": "one_shot", "sparsity": 5}}, "schedule.sparsity"),
        ({"schedule": {"kind": "twice", "sparsity": 0.5}}, "schedule.kind"),
        ({"schedule": [0.5]}, "schedule"),
        ({"strategy": "snip", "stop": {"sparsity": 0.95}}, "stop.sparsity"),
        ({"strategy": "gradual", "stop": {"rounds": 3}}, "stop.rounds"),
        ({"strategy": "rewind", "training": {"steps": 100}}, "between_rounds.step"),
        ({"finally": {"weights": "rewind"}}, "finally.weights"),
        ({"strategy": "dropnet", "training": {"loss": "mse"}}, "stop.accuracy_floor"),
    ],
)
def test_errors_are_told_at_their_field(given, where) -> None:
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate({"strategy": "lottery_ticket_reset"} | given)
    assert [".".join(map(str, error["loc"])) for error in caught.value.errors()] == [where]


def test_sections_may_be_given_as_objects() -> None:
    recipe = Recipe.model_validate({"strategy": "snip"})
    assert recipe.schedule == OneShotSchedule(kind="one_shot", sparsity=0.9)
    parts = {name: getattr(recipe, name) for name in Recipe.model_fields if name != "finally_"}
    assert Recipe(**parts, finally_=recipe.finally_) == recipe
