"""Counts are of what was committed, once, however many count at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import select, update

from store import counters, jobs, sweeps
from store.database import Database
from store.tables import Counter, Job, JobStatus
from store.transitions import Trigger


def counted(database: Database, name: str) -> dict[str, float]:
    """By the values of the labels, joined."""
    with database.reading() as session:
        return {" ".join(row.labels.values()): row.value for row in counters.read(session) if row.name == name}


def claim(database: Database) -> Job:
    with database.transaction() as session:
        job = jobs.claim(session, "cpu", "w", 60)
    assert job is not None
    return job


def test_a_transaction_writes_once_what_it_counts_or_nothing(database: Database) -> None:
    with database.transaction() as session:
        counters.count(session, "rounds", pool="cpu")
        counters.count(session, "rounds", 2, pool="cpu")
        counters.count(session, "rounds", pool="gpu")
        assert session.scalars(select(Counter)).all() == [], "the rows that all write are locked at the end alone"
    with pytest.raises(RuntimeError), database.transaction() as session:
        counters.count(session, "rounds", pool="cpu")
        raise RuntimeError
    assert counted(database, "rounds") == {"cpu": 3, "gpu": 1}


def test_many_count_at_once_and_never_wait_for_each_other(database: Database) -> None:
    """In whatever order they count: no deadlock, no lost update."""
    labels = [str(n) for n in range(6)]

    def count(order: list[str]) -> None:
        for _ in range(10):
            with database.transaction() as session:
                for label in order:
                    counters.count(session, "rounds", pool=label)

    threads = [threading.Thread(target=count, args=(order,)) for order in (labels, labels[::-1]) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted(database, "rounds") == dict.fromkeys(labels, 60)


def test_every_end_of_an_attempt_has_its_code(database: Database, submit: Callable[..., Job]) -> None:
    def ended(end: Callable[[Job], None], order: Trigger | None = None) -> dict[str, float]:
        submit(max_failures=1)
        job, before = claim(database), counted(database, "attempts_ended")
        if order is not None:
            with database.transaction() as session:
                jobs.order(session, job.project_id, job.id, order)
        end(job)
        after = counted(database, "attempts_ended")
        with database.transaction() as session:  # out of the next one's way
            session.execute(update(Job).where(Job.status == JobStatus.QUEUED).values(status=JobStatus.PAUSED))
        return {code: n - before.get(code, 0) for code, n in after.items() if n != before.get(code, 0)}

    def write(work: Callable[..., object], *rest: object, **more: object) -> Callable[[Job], None]:
        def end(job: Job) -> None:
            with database.transaction() as session:
                work(session, job.id, job.attempt, *rest, **more)

        return end

    def silent(job: Job) -> None:
        with database.transaction() as session:
            session.execute(update(Job).where(Job.id == job.id).values(lease_until=1.0))
            assert sweeps.expire_leases(session) == 1

    def late(job: Job) -> None:
        with database.transaction() as session:
            session.execute(update(Job).where(Job.id == job.id).values(deadline_seconds=0.0, created_at=1.0))
            assert sweeps.expire_deadlines(session) == 1

    assert ended(write(jobs.complete, 0, True)) == {"completed": 1}
    assert ended(write(jobs.fail, {"code": "diverged"})) == {"diverged": 1}
    assert ended(write(jobs.fail, {"code": "whatever_a_child_says"})) == {"failed": 1}
    assert ended(write(jobs.give_back, Trigger.DRAIN, "the worker shut down")) == {"given_back": 1}
    assert ended(write(jobs.give_back, Trigger.STOP, "stopped"), Trigger.PAUSE) == {"paused": 1}
    assert ended(write(jobs.give_back, Trigger.STOP, "stopped"), Trigger.CANCEL) == {"canceled": 1}
    assert ended(write(jobs.lose, "killed by SIGKILL")) == {"child_lost": 1}
    assert ended(silent) == {"lease_lost": 1}
    assert ended(late) == {"deadline_exceeded": 1}
    assert counted(database, "lease_losses") == {"job": 1}
    assert counted(database, "jobs_ended") == {
        "passed succeeded": 1,
        "error failed": 4,
        "canceled canceled": 1,
        "timed_out failed": 1,
    }


def test_a_childs_seconds_are_bounded_by_what_passed(database: Database) -> None:
    said = {"train": 1e300, "prune": -5.0, "evaluate": 2.0, "a child's own": 1.0}
    with database.transaction() as session:
        counters.count_round(session, "cpu", said, at_most=10.0)
    assert counted(database, "round_seconds") == {"prune cpu": 0, "train cpu": 10, "evaluate cpu": 2}
    assert counted(database, "rounds") == {"cpu": 1}
