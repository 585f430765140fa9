"""Several recipes over seeds: means, spread and front, by hand and by property."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pruning.comparing import Entry, entries_of, table

NAMES = ["a", "b", "c"]


def entry(recipe: str, seed: int, number: int | None, removed: float, **changes: Any) -> Entry:
    values: dict[str, Any] = {
        "job": f"{recipe}{seed}",
        "position": 9 if number is None else number,
        "sparsity": removed,
        "validation": {"accuracy": 0.5},
        "test": {},
        "stop_step": None,
        "steps": None,
        "seconds": None,
        "seconds_so_far": None,
    }
    return Entry(recipe=recipe, seed=seed, number=number, removed=removed, **{**values, **changes})


def scored(recipe: str, seed: int, number: int | None, removed: float, accuracy: float) -> Entry:
    return entry(recipe, seed, number, removed, validation={"accuracy": accuracy, "loss": 1 - accuracy})


def test_means_and_sample_deviation_by_hand() -> None:
    """0.8, 0.9 and 1.0: mean 0.9, deviation sqrt((0.01 + 0 + 0.01) / 2) = 0.1."""
    [row] = table([scored("a", seed, 1, 0.5, 0.8 + seed / 10) for seed in range(3)], "accuracy", NAMES)
    assert (row.num_seeds, row.removed) == (3, 0.5)
    assert (row.mean, row.std) == (pytest.approx(0.9), pytest.approx(0.1))
    assert (row.low, row.high) == (0.8, 1.0)
    [alone] = table([scored("a", 0, 1, 0.5, 0.8)], "accuracy", NAMES)
    assert (alone.mean, alone.std, alone.test_mean, alone.stop_step) == (0.8, None, None, None)


def test_a_seed_without_a_number_leaves_the_other_seeds_mean() -> None:
    entries = [
        entry("a", 0, 1, 0.5, test={"accuracy": 0.7}, stop_step=100, seconds=2.0),
        entry("a", 1, 1, 0.5, stop_step=300),
    ]
    [row] = table(entries, "accuracy", NAMES)
    assert (row.num_seeds, row.test_mean, row.test_std, row.stop_step, row.seconds) == (2, 0.7, None, 200, 2.0)


def test_the_front_by_hand() -> None:
    """a1 beats b1 (as small, better); b2 is smaller than all; c0 is the best of all."""
    entries = [
        *(scored("a", 0, 1, 0.5, 0.9), scored("b", 0, 1, 0.5, 0.8), scored("b", 0, 2, 0.7, 0.6)),
        scored("c", 0, 0, 0.0, 0.95),
    ]
    rows = table(entries, "accuracy", NAMES)
    assert [(row.recipe, row.number, row.pareto) for row in rows] == [
        *(("a", 1, True), ("b", 1, False), ("b", 2, True), ("c", 0, True)),
    ]


def test_less_loss_is_better() -> None:
    rows = table([scored("a", 0, 1, 0.5, 0.9), scored("b", 0, 1, 0.5, 0.8)], "loss", NAMES)
    assert [row.pareto for row in rows] == [True, False]


def test_rows_stand_in_order_and_controls_behind_and_on_no_front() -> None:
    entries = [
        scored("b", 0, 1, 0.5, 0.5),
        scored("a", 0, None, 0.5, 0.5),
        entry("a", 0, 1, 0.5, control="random_mask", validation={"accuracy": 0.99}),
        scored("a", 0, 1, 0.5, 0.5),
        scored("a", 0, 0, 0.0, 0.5),
    ]
    rows = table(entries, "accuracy", NAMES)
    order = [(row.recipe, row.control, row.number) for row in rows]
    assert order == [
        *(("a", None, 0), ("a", None, 1), ("a", None, None), ("a", "random_mask", 1), ("b", None, 1)),
    ]
    assert [row.pareto for row in rows] == [False, True, True, False, True]


REPORT: dict[str, Any] = {
    "metrics": {"validation": {"accuracy": 0.9, "loss": 0.3}, "test": {"accuracy": 0.8}},
    "early_stopping": {"step": 40},
    "steps": 100,
    "seconds": {"prune": 1.0, "train": 2.0, "evaluate": 0.5, "random_mask": 7.0},
    "compression_ratio": 4.0,
    "controls": {"random_mask": {"metrics": {"validation": {"accuracy": 0.6}}, "steps": 100}},
}


def test_an_entry_is_read_from_its_report() -> None:
    """A compression of 4 removes 3/4; a control's seconds are none of its round's."""
    first, second, control = entries_of("a", 3, "job", [(0, 0, 0.0, REPORT | {"controls": {}}), (1, 1, 0.8, REPORT)])
    assert (first.seconds, first.seconds_so_far, second.seconds_so_far) == (3.5, 3.5, 7.0)
    assert (second.removed, second.sparsity, second.stop_step, second.steps) == (0.75, 0.8, 40, 100)
    assert (second.validation["accuracy"], second.test) == (0.9, {"accuracy": 0.8})
    assert (control.control, control.validation, control.seconds, control.removed) == (
        *("random_mask", {"accuracy": 0.6}),
        *(7.0, 0.75),
    )


def test_an_untrained_entry_is_none() -> None:
    assert entries_of("a", 3, "job", [(1, None, 0.8, {**REPORT, "metrics": {}, "controls": {}})]) == []


STRANGE = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=3) | st.integers() | st.just(10**400),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["validation", "step", "train", "random_mask", "metrics"]), inner)
    ),
)


# No bound of time: a machine under load makes strange reports slowly.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from([*REPORT, "odd"]), STRANGE))
def test_a_strange_report_is_read_without_an_error(report: dict[str, Any]) -> None:
    entries_of("a", 0, "job", [(0, 0, 0.0, report)])


MEASURED = st.lists(
    st.builds(
        scored,
        st.sampled_from(NAMES),
        st.integers(0, 2),
        st.integers(0, 3),
        st.sampled_from([0.0, 0.2, 0.5, 0.9]),
        st.sampled_from([0.1, 0.5, 0.9, 0.95]),
    ),
    min_size=1,
    max_size=20,
    unique_by=lambda e: (e.recipe, e.seed, e.number),
)


@given(MEASURED)
def test_the_front_holds_what_nothing_beats_and_something_is_on_it(entries: list[Entry]) -> None:
    rows = table(entries, "accuracy", NAMES)
    assert any(row.pareto for row in rows)
    assert sum(row.num_seeds for row in rows) == len(entries)
    for row in rows:
        assert row.low <= row.mean + 1e-12
        assert row.mean <= row.high + 1e-12
        better = [o for o in rows if o.removed >= row.removed and o.mean >= row.mean]
        assert row.pareto == all((o.removed, o.mean) == (row.removed, row.mean) for o in better)
        values = [e.validation["accuracy"] for e in entries if (e.recipe, e.number) == (row.recipe, row.number)]
        assert row.std == (statistics.stdev(values) if len(values) > 1 else None)


@given(MEASURED, st.randoms())
def test_the_order_of_what_comes_in_does_not_matter(entries: list[Entry], random: Any) -> None:
    shuffled = list(entries)
    random.shuffle(shuffled)
    assert [(r.recipe, r.number, r.pareto) for r in table(entries, "accuracy", NAMES)] == [
        (r.recipe, r.number, r.pareto) for r in table(shuffled, "accuracy", NAMES)
    ]
