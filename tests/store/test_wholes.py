"""The status of a whole: every combination of its parts' statuses has one, and the rules say which."""

from __future__ import annotations

from itertools import combinations

import pytest

from store.tables import JobStatus
from store.wholes import Parts, conclusion_of, whole

EVERY = [frozenset(chosen) for size in range(1, len(JobStatus) + 1) for chosen in combinations(JobStatus, size)]


@pytest.mark.parametrize(
    ("statuses", "has_started", "expected"),
    [
        ("queued", False, "queued"),
        ("queued running", True, "running"),
        ("queued succeeded", True, "running"),
        ("queued paused", False, "queued"),
        ("queued canceled", False, "queued"),
        ("running failed", True, "running"),
        ("paused", True, "paused"),
        ("paused succeeded", True, "paused"),
        ("pausing paused", True, "pausing"),
        ("pausing running", True, "running"),
        ("paused canceling", True, "pausing"),
        ("canceling canceled succeeded", True, "canceling"),
        ("canceling running", True, "running"),
        ("succeeded", True, "succeeded"),
        ("succeeded canceled", True, "canceled"),
        ("succeeded canceled failed", True, "failed"),
    ],
)
def test_by_hand(statuses: str, has_started: bool, expected: str) -> None:
    assert whole(Parts(frozenset(map(JobStatus, statuses.split())), has_started)) == expected


def test_it_has_ended_exactly_when_all_parts_have() -> None:
    for statuses in EVERY:
        for has_started in (False, True):
            has_ended = all(status.is_terminal for status in statuses)
            assert whole(Parts(statuses, has_started)).is_terminal == has_ended


def test_a_part_that_was_deleted_is_one_that_was_canceled() -> None:
    assert whole(Parts(frozenset({JobStatus.SUCCEEDED}), True, is_missing_one=True)) == "canceled"
    assert whole(Parts(frozenset(), False, is_missing_one=True)) == "canceled"
    assert whole(Parts(frozenset({JobStatus.RUNNING}), True, is_missing_one=True)) == "running"


@pytest.mark.parametrize(
    ("status", "conclusions", "passed", "expected"),
    [
        ("running", [None, "passed"], False, None),
        ("succeeded", ["passed"], True, "passed"),
        ("succeeded", ["passed"], False, "gate_failed"),
        ("failed", ["passed", "timed_out"], False, "timed_out"),
        ("failed", ["error", "timed_out"], False, "error"),
        ("canceled", ["canceled", "passed"], True, "canceled"),
    ],
)
def test_conclusions(status: str, conclusions: list[str | None], passed: bool, expected: str | None) -> None:
    assert conclusion_of(JobStatus(status), conclusions, passed) == expected
