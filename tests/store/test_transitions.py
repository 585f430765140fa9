"""The table of statuses against the promise to users, pair by pair. (Races: test_verb_races.py.)"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
from promised import HELD, PROMISED
from sqlalchemy import select, update

from store import jobs
from store.database import Database
from store.leases import Fenced
from store.tables import Attempt, Event, Job, JobStatus
from store.transitions import TRANSITIONS, InvalidTransition, Trigger, change


@pytest.mark.parametrize(("status", "trigger"), list(product(JobStatus, Trigger)))
def test_every_pair_does_what_the_table_promises(
    database: Database, submit: Callable[..., Job], status: JobStatus, trigger: Trigger
) -> None:
    job = submit()
    held = {"lease_until": 2e12, "attempt": 1} if status.value in HELD else {}
    with database.transaction() as session:
        session.execute(update(Job).where(Job.id == job.id).values(status=status, **held))
        changed = change(session, job.id, trigger, error={"code": "x"}, conclusion=None)

    expected = PROMISED[status.value].get(trigger.value)
    assert (changed and changed.status.value) == expected
    with database.reading() as session:
        after = session.get_one(Job, job.id)
    assert after.status == (expected or status)
    assert after.num_events == (2 if expected else 1)
    if expected is None:
        return
    # Whoever held it holds it on only under orders; a terminal status has an end and a conclusion.
    assert (after.lease_until is not None) == (expected in ("canceling", "pausing"))
    terminal = JobStatus(expected).is_terminal
    assert (after.finished_at is not None) == terminal
    if expected in ("failed", "canceled"):
        assert after.conclusion == {"failed": "error", "canceled": "canceled"}[expected]
    assert (after.error is not None) == (expected == "failed")


def test_the_table_covers_every_trigger() -> None:
    assert set(TRANSITIONS) == set(Trigger)


@pytest.mark.parametrize("verb", [Trigger.CANCEL, Trigger.PAUSE])
def test_repeating_a_verb_changes_nothing(
    database: Database, submit: Callable[..., Job], project: str, verb: Trigger
) -> None:
    job = submit()
    for _ in range(2):
        with database.transaction() as session:
            again = jobs.order(session, project, job.id, verb)
        assert again is not None
    with database.reading() as session:
        assert len(session.scalars(select(Event).where(Event.job_id == job.id)).all()) == 2


def test_an_impossible_verb_names_what_is_allowed(database: Database, submit: Callable[..., Job], project: str) -> None:
    job = submit()
    with database.transaction() as session:
        jobs.order(session, project, job.id, Trigger.CANCEL)
    with pytest.raises(InvalidTransition) as refused, database.transaction() as session:
        jobs.order(session, project, job.id, Trigger.PAUSE)
    assert refused.value.allowed == ["retry"]
    paused = submit()
    with database.transaction() as session:
        jobs.order(session, project, paused.id, Trigger.PAUSE)
        assert InvalidTransition(JobStatus.PAUSED, Trigger.COMPLETE).allowed == ["cancel", "resume"]


def test_another_projects_job_is_none(database: Database, submit: Callable[..., Job]) -> None:
    job = submit()
    with database.transaction() as session:
        assert jobs.order(session, "prj_other", job.id, Trigger.CANCEL) is None
        assert jobs.find(session, "prj_other", job.id) is None


def test_cancel_before_the_last_round_is_stored_loses_to_completion(
    database: Database, submit: Callable[..., Job], project: str
) -> None:
    job = submit()
    with database.transaction() as session:
        claimed = jobs.claim(session, "cpu", "w", 60)
    assert claimed is not None
    with database.transaction() as session:
        jobs.order(session, project, job.id, Trigger.CANCEL)
    with database.transaction() as session:
        jobs.complete(session, job.id, claimed.attempt, 0, passed=True)
    with database.reading() as session:
        after = session.get_one(Job, job.id)
        attempt = session.get_one(Attempt, (job.id, 1))
    assert (after.status, after.conclusion) == ("succeeded", "passed")
    assert (attempt.reason, attempt.ended_at is not None) == ("completed", True)
    with pytest.raises(Fenced), database.transaction() as session:
        jobs.give_back(session, job.id, claimed.attempt, Trigger.STOP, "late")
