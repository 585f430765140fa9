"""Which round to take under a goal, by hand and by property; honest where none meets it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from pydantic import ValidationError
from test_comparing import MEASURED, NAMES, REPORT, entry, scored

from pruning.comparing import Entry
from pruning.recommending import Goal, findings, recommend

KEEP = Goal(metric="accuracy", keep_ratio=0.9)
DENSE = [scored(name, seed, 0, 0.0, 1.0) for name in "ab" for seed in (0, 1)]


def two_seeds(recipe: str, number: int, removed: float, *accuracies: float) -> list[Entry]:
    return [scored(recipe, seed, number, removed, accuracy) for seed, accuracy in enumerate(accuracies)]


def test_the_smallest_that_holds_in_every_seed() -> None:
    """The level is 0.9: a2 holds in both, b2 is smaller and misses in one."""
    entries = [
        *DENSE,
        *two_seeds("a", 1, 0.2, 0.99, 0.99),
        *two_seeds("a", 2, 0.5, 0.92, 0.9),
        *two_seeds("b", 2, 0.6, 0.97, 0.89),
    ]
    best = recommend(entries, KEEP, [0, 1], NAMES)
    assert best is not None
    assert (best.row.recipe, best.row.number, best.is_met, best.num_held) == ("a", 2, True, 2)
    assert best.margin == pytest.approx(0.01)
    assert best.worst_margin == pytest.approx(0)
    assert (best.best_trial.seed, best.best_trial.job) == (0, "a0")
    relaxed = recommend(entries, Goal(metric="accuracy", keep_ratio=0.9, min_seeds=1), [0, 1], NAMES)
    assert relaxed is not None
    assert (relaxed.row.recipe, relaxed.is_met, relaxed.num_held) == ("b", True, 1)


def test_the_best_of_those_that_are_small_enough() -> None:
    entries = [*DENSE, *two_seeds("a", 1, 0.2, 0.99, 0.99), *two_seeds("b", 1, 0.6, 0.8, 0.9)]
    best = recommend(entries, Goal(metric="accuracy", min_removed=0.5, want="best"), [0, 1], NAMES)
    assert best is not None
    assert (best.row.recipe, best.is_met, best.margin) == ("b", True, None)


def test_where_none_holds_the_nearest_is_told_as_such() -> None:
    """a1 holds in no seed by little, b1 in one: that came nearer."""
    entries = [*DENSE, *two_seeds("a", 1, 0.2, 0.89, 0.89), *two_seeds("b", 1, 0.6, 0.95, 0.1)]
    best = recommend(entries, KEEP, [0, 1], NAMES)
    assert best is not None
    assert (best.row.recipe, best.is_met, best.num_held) == ("b", False, 1)
    assert recommend(DENSE, KEEP, [0, 1], NAMES) is None


def test_a_seed_that_is_missing_is_none_that_holds() -> None:
    entries = [*DENSE, scored("a", 0, 1, 0.5, 1.0)]
    best = recommend(entries, KEEP, [0, 1], NAMES)
    assert best is not None
    assert (best.is_met, best.num_held) == (False, 1)


def test_a_poor_dense_network_of_its_own_makes_it_no_easier() -> None:
    """b keeps 100% of its own dense 0.5, and half of a's."""
    entries = [scored("a", 0, 0, 0.0, 1.0), scored("b", 0, 0, 0.0, 0.5), scored("b", 0, 1, 0.5, 0.5)]
    best = recommend(entries, KEEP, [0], NAMES)
    assert best is not None
    assert (best.is_met, best.margin) == (False, pytest.approx(-0.4))


def test_less_is_better_for_a_loss() -> None:
    """Dense 0.2: at most 0.2 / 0.5 = 0.4."""
    entries = [scored("a", 0, 0, 0.0, 0.8), scored("a", 0, 1, 0.3, 0.7), scored("a", 0, 2, 0.5, 0.5)]
    best = recommend(entries, Goal(metric="loss", keep_ratio=0.5), [0], NAMES)
    assert best is not None
    assert (best.row.number, best.is_met) == (1, True)
    assert best.margin == pytest.approx(0.1)


def test_controls_are_never_recommended() -> None:
    control = entry("a", 0, 2, 0.9, control="random_mask", validation={"accuracy": 1.0})
    best = recommend([scored("a", 0, 0, 0.0, 1.0), scored("a", 0, 1, 0.5, 1.0), control], KEEP, [0], NAMES)
    assert best is not None
    assert (best.row.control, best.row.number) == (None, 1)


@pytest.mark.parametrize(
    ("gate", "passes"),
    [
        ({"metric": "accuracy", "op": ">=", "value": 0.9}, True),
        ({"metric": "accuracy", "op": ">", "value": 0.9}, False),
        ({"metric": "loss", "op": "<=", "value": 0.3}, True),
        ({"metric": "f1", "op": ">=", "value": 0.0}, False),
    ],
)
def test_gates_are_of_the_recommended_rounds_means(gate: dict[str, Any], passes: bool) -> None:
    rounds = [(0, 0, 0.0, {**REPORT, "compression_ratio": 1.0}), (1, 1, 0.5, REPORT)]
    found = findings([("a", 0, "job", rounds)], ["a"], [0], {"metric": "accuracy", "keep_ratio": 0.9}, [gate])
    assert found.recommended is not None
    assert (found.recommended.is_met, found.passed) == (True, passes)


@given(MEASURED)
def test_whatever_is_recommended_meets_the_goal_and_nothing_smaller_does(entries: list[Entry]) -> None:
    seeds = sorted({e.seed for e in entries})
    best = recommend(entries, KEEP, seeds, NAMES)
    assume(best is not None)
    assert best is not None
    dense = {
        s: max((e.validation["accuracy"] for e in entries if e.seed == s and e.number == 0), default=9) for s in seeds
    }
    holding = {
        key: all(
            any(
                (e.recipe, e.number, e.seed) == (*key, s) and e.validation["accuracy"] >= 0.9 * dense[s]
                for e in entries
            )
            for s in seeds
        )
        for key in {(e.recipe, e.number) for e in entries if e.number != 0}
    }
    assert best.is_met == any(holding.values())
    if best.is_met:
        assert holding[best.row.recipe, best.row.number]
        sizes = {
            key: [e.removed for e in entries if (e.recipe, e.number) == key] for key, holds in holding.items() if holds
        }
        assert best.row.removed == pytest.approx(max(sum(removed) / len(removed) for removed in sizes.values()))


@pytest.mark.parametrize(
    ("goal", "said"),
    [
        ({"metric": "accuracy"}, "keep_ratio or value is needed"),
        ({"metric": "accuracy", "want": "best"}, "keep_ratio, value or min_removed"),
        ({"metric": "accuracy", "keep_ratio": 0.9, "value": 0.9}, "not both"),
        ({"metric": "r2", "keep_ratio": 0.9}, "give value"),
        ({"keep_ratio": 0.9}, "Field required"),
    ],
)
def test_a_goal_that_says_nothing_is_refused(goal: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Goal.model_validate(goal)
