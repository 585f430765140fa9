from __future__ import annotations

import pytest
from pydantic import ValidationError

from pruning.recipe import Recipe
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
