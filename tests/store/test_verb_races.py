"""What users, workers and time do to one job at the same moment: it ends as if one had come after the other.

Each pair is provoked in both orders: the first holds its transaction open until the second, on another connection,
waits for it (or passes it by, as sweepers and claims do with locked rows on PostgreSQL). The second then comes once
more, as whoever never heard an answer would.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from promised import HELD, PROMISED
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from store import jobs, retries, sweeps
from store.database import Database
from store.leases import Fenced
from store.tables import Attempt, Job, JobStatus
from store.transitions import InvalidTransition, Trigger

VERBS = ("cancel", "pause", "resume")
PAIRS = [
    (status, *order)
    for status, users, workers in (
        ("queued", ("cancel", "pause", "retry", "queue_timeout", "deadline"), ("claim",)),
        ("running", ("cancel", "pause", "retry", "deadline"), ("complete", "lose", "fail")),
        ("pausing", ("cancel", "pause", "resume", "deadline"), ("complete", "lose", "stop")),
        ("canceling", ("cancel", "retry", "deadline"), ("complete", "lose", "stop")),
        ("paused", ("resume",), ("cancel", "deadline", "pause")),
        ("canceled", ("retry",), ("cancel", "deadline")),
    )
    for user in users
    for order in [(user, user), *((user, worker) for worker in workers), *((worker, user) for worker in workers)]
]


class Contest:
    """One job, brought to a status, and what may be done to it; each answers what it was told."""

    def __init__(self, database: Database, project: str, submit: Callable[..., Job], *names: str) -> None:
        self.database, self.project = database, project
        late = {"queue_timeout": "queue_timeout_seconds", "deadline": "deadline_seconds"}
        limits = {late[name]: 0.001 for name in names if name in late}
        self.id = submit(pool="-".join(names), **limits).id
        self.names = names
        status = names[0]
        if status in HELD:
            self._in_transaction("claim")
        if status in ("pausing", "canceling", "paused", "canceled"):
            self._in_transaction({"p": "pause", "c": "cancel"}[status[0]])
        with database.transaction() as session:
            assert session.get_one(Job, self.id).status == status
            # A worker that has gone silent: it may come back before a sweeper has seen it, or just after.
            session.execute(update(Job).where(Job.id == self.id, Job.lease_until.is_not(None)).values(lease_until=1.0))

    def run(self) -> tuple[list[str], bool]:
        """(what the two were told, whether the second waited for the first)."""
        _, first, second = self.names
        arrived = threading.Event()
        with ThreadPoolExecutor(1) as thread:
            with self.database.transaction() as session:
                told = [self._do(session, first)]
                other = thread.submit(self._in_transaction, second, arrived)
                arrived.wait(5)
                time.sleep(0.03)
                waited = not other.done()
            told.append(other.result(20))
        self._in_transaction(second)
        return told, waited

    def _in_transaction(self, name: str, arrived: threading.Event | None = None) -> str:
        if arrived is not None:
            arrived.set()
        with self.database.transaction() as session:
            return self._do(session, name)

    def _do(self, session: Session, name: str) -> str:
        try:
            if name in VERBS:
                assert jobs.order(session, self.project, self.id, Trigger(name)) is not None
            elif name == "retry":
                assert retries.retry(session, self.project, self.id) is not None
            elif name == "claim":
                return "done" if jobs.claim(session, "-".join(self.names), "w", 60) else "nothing"
            elif name == "complete":
                jobs.complete(session, self.id, 1, 0, passed=True)
            elif name == "fail":
                jobs.fail(session, self.id, 1, {"code": "diverged", "message": "", "retryable": False})
            elif name == "stop":
                jobs.give_back(session, self.id, 1, Trigger.STOP, "stopped")
            elif name == "lose":
                sweeps.expire_leases(session)
            else:
                sweeps.expire_deadlines(session)
        except InvalidTransition as refused:
            return f"refused: {', '.join(refused.allowed)}"
        except Fenced:
            return "fenced"
        return "done"


def after(status: str, name: str) -> str:
    """By the table that users are promised."""
    moves = PROMISED[status] | ({"claim": "running"} if status == "queued" else {})
    return moves.get(name, status)


def answer(status: str, name: str) -> str | None:
    """What whoever comes at this status is told; None where that does not matter."""
    unchanged = {"cancel": ("canceling", "canceled"), "pause": ("pausing", "paused"), "resume": ("queued", "running")}
    is_over = JobStatus(status).is_terminal
    impossible = not is_over if name == "retry" else after(status, name) == status
    if impossible and status not in unchanged.get(name, ()) and name in (*VERBS, "retry"):
        allowed = [verb for verb in VERBS if verb in PROMISED[status]] + ["retry"] * is_over
        return f"refused: {', '.join(allowed)}"
    if name in ("complete", "fail", "stop"):
        return "done" if name in PROMISED[status] else "fenced"
    return "done" if name in (*VERBS, "retry") else None


def test_two_at_once_are_as_one_after_the_other(
    database: Database, submit: Callable[..., Job], project: str, subtests: pytest.Subtests
) -> None:
    waits = 0
    for names in PAIRS:
        with subtests.test(pair=names):
            contest = Contest(database, project, submit, *names)
            told, waited = contest.run()
            waits += waited
            status, first, second = names
            between = after(status, first)
            for said, expected in zip(told, (answer(status, first), answer(between, second)), strict=True):
                assert expected in (None, said)
            final = after(between, second)
            seen = [at for at, name in ((status, first), (between, second)) if name == "retry"]
            num_retries = any(JobStatus(at).is_terminal for at in seen)
            check(database, contest.id, final, num_retries)
    assert waits > len(PAIRS) / 2, "else nothing met"


def check(database: Database, job_id: str, status: str, num_retries: int) -> None:
    """It is in that status, and all that is told of it says so, once."""
    with database.reading() as session:
        job = session.get_one(Job, job_id)
        events = jobs.events(session, job_id)
        attempts = session.scalars(select(Attempt).where(Attempt.job_id == job_id)).all()
        retried = session.scalar(select(func.count()).select_from(Job).where(Job.retried_from == job_id))
    assert (job.status, retried) == (status, num_retries)
    assert [event.sequence for event in events] == list(range(1, job.num_events + 1))
    changes = [event.type.removeprefix("job.") for event in events]
    assert changes[-1] == status
    assert all(a != b for a, b in pairwise(changes)), "nothing happened twice"
    assert sum(JobStatus(change).is_terminal for change in changes) == JobStatus(status).is_terminal
    assert (job.lease_until is not None) == (status in HELD)
    assert [attempt.ended_at is None for attempt in attempts] == [status in HELD] * len(attempts)
    assert (job.finished_at is not None) == (job.conclusion is not None) == JobStatus(status).is_terminal
