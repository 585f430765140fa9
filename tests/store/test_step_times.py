"""Rounds leave how long they took: a mean that follows, of what a child can say no nonsense in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from store import step_times
from store.database import Database
from store.tables import Job, Model, StepTime

REPORT = {"layers": [{"name": "fc", "type": "Linear", "shape": [2, 3]}], "num_parameters_total": 8}
ROUND: dict[str, Any] = {
    "steps": 100,
    "seconds": {"prune": 0.5, "train": 2.0, "evaluate": 0.5},
    "macs": {"dense": 6},
}


@pytest.fixture
def job(database: Database, submit: Callable[..., Job]) -> Job:
    job = submit(recipe={"training": {"batch_size": 32}})
    with database.transaction() as session:
        session.get_one(Model, job.model_id).report = REPORT
    return job


def stored(database: Database) -> StepTime | None:
    with database.reading() as session:
        return step_times.find(session, "cpu", step_times.architecture_of(REPORT), 32)


def test_means_follow_what_is_measured(database: Database, job: Job) -> None:
    with database.transaction() as session:
        step_times.record(session, job, ROUND, 5.0, is_first=True)
    first = stored(database)
    assert first is not None
    assert (first.seconds_per_step, first.seconds_per_entry, first.seconds_to_start) == (0.02, 1.0, 2.0)
    slower = ROUND | {"seconds": {**ROUND["seconds"], "train": 4.0, "random_mask": 4.0}}
    with database.transaction() as session:
        step_times.record(session, job, slower, 10.0, is_first=False)
        step_times.record_end(session, job, 3.0)
    second = stored(database)
    assert second is not None
    assert second.seconds_per_step == pytest.approx(0.7 * 0.02 + 0.3 * 0.04)
    assert second.seconds_per_entry == pytest.approx(0.7 * 1.0 + 0.3 * 2.0), "what the control took is no overhead"
    assert second.seconds_to_start == 2.0
    assert second.seconds_to_end == pytest.approx(0.9)
    assert (second.num_measured, second.macs, second.fraction_made) == (2, 6, None)


def test_how_far_such_jobs_came(database: Database, job: Job) -> None:
    """Where a floor may end them."""
    job.recipe |= {"stop": {"accuracy_floor": {"factor": 0.98}}}
    for position, fraction in ((1, 0.5), (3, 0.7 * 0.5 + 0.3 * 1.0)):
        with database.transaction() as session:
            session.get_one(Job, job.id).last_position = position
            step_times.record(session, job, ROUND, 5.0, is_first=True)
            session.flush()
            step_times.record_end(session, job, 1.0)
        row = stored(database)
        assert row is not None
        assert row.fraction_made == pytest.approx(fraction), "of four entries"


@pytest.mark.parametrize(
    "report",
    [
        {"steps": 0},
        {"steps": True},
        {"steps": "100"},
        {"steps": 10**30},
        {"seconds": {"train": 1e300}},
        {"seconds": {}},
        {"steps": None},
    ],
)
def test_nonsense_is_left_out(database: Database, job: Job, report: dict[str, Any]) -> None:
    with database.transaction() as session:
        step_times.record(session, job, ROUND | report, 5.0, is_first=True)
    assert stored(database) is None


def test_a_strange_count_of_macs_is_none(database: Database, job: Job) -> None:
    for macs in ({"dense": "6"}, {"dense": -1}, None, [6]):
        with database.transaction() as session:
            step_times.record(session, job, ROUND | {"macs": macs}, 5.0, is_first=True)
        row = stored(database)
        assert row is not None
        assert row.macs is None
