"""What matters to an entry gives another name, what does not the same; and equal names are equal bits, when run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pruning.data import Dataset, Split
from pruning.formats.architectures import build
from pruning.iterative import Round, prune_iteratively
from pruning.recipe import Recipe, Stop
from pruning.round_names import Contents, final_name, is_nameable, round_name

CONTENTS = Contents(
    {"format": "architecture", "spec": {"seed": 0}, "sha256": "a" * 64}, {"format": "npz", "sha256": "b"}
)
CLASS = {"device": "cpu", "threads": 1, "torch": "2"}
BASE: dict[str, Any] = {
    "strategy": "lottery_ticket_reset",
    "stop": {"rounds": 3},
    "training": {"steps": 6, "batch_size": 16, "evaluate_every_steps": 3},
}


def recipe(**sections: Any) -> Recipe:
    return Recipe.model_validate(BASE | sections)


def names(given: Recipe, num_rounds: int = 3, contents: Contents = CONTENTS, determinism: Any = CLASS) -> list[str]:
    """Of rounds 0 to `num_rounds`, and of a final entry behind them."""
    found: list[str] = []
    for number in range(num_rounds + 1):
        found.append(round_name(given, number, found[-1] if found else None, contents, determinism))
    return [*found, final_name(given, num_rounds + 1, found[-1], found[-1], contents, determinism)]


NOTHING = {"finally": {"weights": "none", "train": False}}
GEOMETRIC = {"kind": "geometric", "sparsity": 0.5, "rounds": 3}
POLYNOMIAL = {"kind": "polynomial", "sparsity": 0.5, "rounds": 3}


@pytest.mark.parametrize(
    "sections",
    [
        {"stop": {"rounds": 8}},
        {"stop": {"rounds": 3, "accuracy_floor": {"factor": 0.9}}},
        {"stop": {"rounds": 3, "patience": 2}},
        {"stop": {"sparsity": 0.4}},
        {"materialize": None, "strategy": None, **{k: v for k, v in recipe().to_json().items() if k != "strategy"}},
    ],
)
def test_what_ends_the_loop_or_is_only_a_name_changes_no_name(sections: dict[str, Any]) -> None:
    assert names(recipe(**sections)) == names(recipe())


@pytest.mark.parametrize(
    ("sections", "shared"),
    [
        ({"finally": {"weights": "reset", "train": True}}, 4),
        ({"criterion": {"name": "random"}}, 1),
        ({"criterion": {"name": "magnitude", "keep": "low"}}, 1),
        ({"scope": {"kind": "global", "overrides": {"output": {"rate": None}}}}, 1),
        ({"scope": {"kind": "layerwise", "overrides": {"output": {"rate": 0.25}}}}, 1),
        ({"scope": {"kind": "layerwise", "overrides": {"output": {"ignore": True}}}}, 0),
        ({"schedule": {"fraction": 0.3}}, 1),
        ({"schedule": {"fraction": 0.2, "of": "original"}}, 1),
        ({"between_rounds": {"weights": "continue"}}, 1),
        ({"between_rounds": {"weights": "reinit"}}, 1),
        ({"between_rounds": {"weights": "rewind", "step": 2}}, 0),
        ({"between_rounds": {"weights": "continue", "optimizer_state": "keep"}}, 0),
        ({"between_rounds": {"weights": "reset", "learning_rate": "continue"}}, 0),
        ({"controls": ["random_mask"]}, 1),
        ({"granularity": "unit"}, 0),
        ({"sensitivity": True}, 0),
        ({"training": {**BASE["training"], "batch_size": 17}}, 0),
        ({"training": {**BASE["training"], "steps": 7}}, 0),
        ({"training": {**BASE["training"], "distillation": {}}}, 0),
        ({"training": {**BASE["training"], "early_stopping": {"patience": 1}}}, 0),
        ({"seed": 1}, 0),
    ],
    ids=str,
)
def test_what_matters_gives_another_name_from_where_it_binds(sections: dict[str, Any], shared: int) -> None:
    mine, other = names(recipe()), names(recipe(**sections))
    assert mine[:shared] == other[:shared]
    assert not set(mine[shared:]) & set(other[shared:])


@pytest.mark.parametrize("schedule", [GEOMETRIC, POLYNOMIAL])
def test_a_schedule_over_more_rounds_shares_the_dense_round_alone(schedule: dict[str, Any]) -> None:
    scope = {"kind": "layerwise", "overrides": {"output": {"rate": None}}}
    stop = {"rounds": None}
    few, more = (names(recipe(schedule={**schedule, "rounds": n}, scope=scope, stop=stop)) for n in (3, 4))
    assert few[0] == more[0]
    assert not set(few[1:]) & set(more)


def test_one_learning_rate_over_all_rounds_is_of_so_many() -> None:
    between = {"weights": "continue", "learning_rate": "continue"}
    few, more = (names(recipe(between_rounds=between, stop={"rounds": n})) for n in (3, 4))
    assert not set(few) & set(more)


def test_every_field_of_a_recipe_is_thought_of() -> None:
    """One that is new fails here: say in `round_names` what it matters to, and add a case above."""
    in_names = {"criterion", "granularity", "scope", "schedule", "between_rounds", "finally_", "training", "controls"}
    assert set(Recipe.model_fields) == in_names | {"sensitivity", "seed", "strategy", "stop", "materialize"}
    assert set(Stop.model_fields) == {"rounds", "sparsity", "accuracy_floor", "seconds", "patience"}


def test_content_class_and_engine_are_in_every_name(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = names(recipe())
    others = [
        names(recipe(), contents=Contents(CONTENTS.model | {"sha256": "c"}, CONTENTS.dataset)),
        names(recipe(), contents=Contents(CONTENTS.model | {"spec": {"seed": 1}}, CONTENTS.dataset)),
        names(recipe(), contents=Contents(CONTENTS.model, CONTENTS.dataset | {"sha256": "c"})),
        names(recipe(), determinism=CLASS | {"threads": 2}),
    ]
    monkeypatch.setattr("pruning.round_names.ENGINE", 0)
    others.append(names(recipe()))
    assert len(set(mine).union(*others)) == len(mine) * (len(others) + 1)


def test_names_are_told_apart_by_where_they_stand() -> None:
    assert len(set(names(recipe()))) == 5
    with pytest.raises(ValueError, match="round 0"):
        round_name(recipe(), 1, None, CONTENTS, CLASS)


def test_a_recipe_bounded_by_seconds_has_no_names() -> None:
    assert is_nameable(recipe())
    assert not is_nameable(recipe(stop={"rounds": 3, "seconds": 60.0}))


def test_names_stay_the_same_from_version_to_version() -> None:
    """Another digest here means that every cache is empty after an upgrade: raise ENGINE where that is meant."""
    assert names(recipe())[-1] == "d45b8e1d3f063a6383a689ec36a378593f8f6d6a3d36a3866ebcb6ceec39fab2"


def _run(given: Recipe) -> list[Round]:
    draws = torch.Generator().manual_seed(0)
    inputs = torch.rand(100, 1, 8, 8, generator=draws)
    data = Dataset(Split(inputs[:80], torch.arange(80) % 10), Split(inputs[80:], torch.arange(20) % 10), None, 10)
    model = build(architecture="lenet_300_100", input_shape=[1, 8, 8], num_classes=10, seed=0)
    return list(prune_iteratively(model, data, given))


VARIANTS: list[dict[str, Any]] = [
    {},
    {"stop": {"rounds": 2}},
    {"stop": {"rounds": 2, "patience": 1}},
    {"finally": {"weights": "reset", "train": True}, "stop": {"rounds": 1}},
    {"finally": {"weights": "rewind", "train": False}, "between_rounds": {"weights": "rewind", "step": 2}},
    {"between_rounds": {"weights": "continue"}, "stop": {"rounds": 2}},
    {"between_rounds": {"weights": "continue", "learning_rate": "constant"}, "stop": {"rounds": 2}},
    {"criterion": {"name": "taylor"}, "scope": {"kind": "global", "overrides": {"output": {"rate": None}}}},
    {"controls": ["random_reinit"], "stop": {"rounds": 1}},
    {"granularity": "unit", "stop": {"rounds": 2}},
    {"granularity": "unit", "criterion": {"name": "activation"}, "stop": {"rounds": 1}},
]


def test_equal_names_are_equal_bits() -> None:
    """Every recipe is run; whatever two of them name alike is the same, tensor by tensor."""
    seen: dict[str, Round] = {}
    num_shared = 0
    for sections in VARIANTS:
        given, so_far = recipe(**sections), list[str]()
        for round_ in _run(given):
            previous = so_far[-1] if so_far else None
            if round_.number is None:
                assert previous is not None
                name = final_name(given, round_.position, previous, previous, CONTENTS, CLASS)
            else:
                name = round_name(given, round_.number, previous, CONTENTS, CLASS)
            so_far.append(name)
            other = seen.setdefault(name, round_)
            num_shared += other is not round_
            for mine, its in ((round_.state, other.state), (round_.ticket, other.ticket), (round_.masks, other.masks)):
                assert mine.keys() == its.keys()
                assert all(torch.equal(mine[key], its[key]) for key in mine)
            assert (round_.metrics, round_.controls) == (other.metrics, other.controls)
    assert num_shared >= 8, "many are shared, or the test says nothing"
