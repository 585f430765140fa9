"""What time does to jobs: leases run out, queues time out, deadlines pass, messages get lost. All of it is safe to
repeat and to run in any number of sweepers at once. None of these commits."""

from __future__ import annotations

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from store import counters, intake, jobs, leases
from store.database import now
from store.queue import INTAKE
from store.tables import Attempt, Dataset, IntakeStatus, Job, JobStatus, Model
from store.transitions import Trigger, change

LOST = "the worker went silent and its lease ran out"
BATCH = 100


def expire_leases(session: Session) -> int:
    """Rows whose worker has gone silent wait again (or fail, where that happened too often). How many."""
    swept = 0
    for job_id, attempt in leases.expired(session, Job, BATCH):
        jobs.lose(session, job_id, attempt, LOST, "lease_lost")
        counters.count(session, "lease_losses", of="job")
        swept += 1
    for entity in (Model, Dataset):
        for row_id, attempt in leases.expired(session, entity, BATCH):
            intake.lose(session, entity, row_id, attempt, LOST)
            counters.count(session, "lease_losses", of="upload")
            swept += 1
    return swept


def expire_deadlines(session: Session) -> int:
    """Jobs past `deadline_seconds` since they were made, or queued past `queue_timeout_seconds`, fail. How many.

    A worker that still runs one is fenced by the change: its next renewal meets zero rows, and it kills the child.
    """
    live = [status.value for status in JobStatus if not status.is_terminal]
    return _time_out(
        session, Trigger.DEADLINE, Job.status.in_(live), Job.created_at, Job.deadline_seconds, "deadline_exceeded",
        "deadline_seconds ({:g}) passed before the job ended, now {:.1f} s old; its completed rounds are kept",
    ) + _time_out(
        session, Trigger.QUEUE_TIMEOUT, Job.status == JobStatus.QUEUED, Job.queued_at, Job.queue_timeout_seconds,
        "queue_timeout", "queue_timeout_seconds ({:g}) passed and no worker took the job, which waited {:.1f} s",
    )  # fmt: skip


def _time_out(
    session: Session,
    trigger: Trigger,
    who: ColumnElement[bool],
    since: InstrumentedAttribute[float],
    limit: InstrumentedAttribute[float | None],
    code: str,
    message: str,
) -> int:
    late = select(Job.id, limit, now() - since).where(who, since + limit < now()).limit(BATCH)
    swept = 0
    for job_id, allowed, took in session.execute(late.with_for_update(skip_locked=True)).all():
        error = {"code": code, "message": message.format(allowed, took), "retryable": True}
        if change(session, job_id, trigger, conclusion="timed_out", error=error):
            _close_attempts(session, job_id, code)
            swept += 1
    return swept


def _close_attempts(session: Session, job_id: str, reason: str) -> None:
    closed = session.scalars(
        update(Attempt)
        .where(Attempt.job_id == job_id, Attempt.ended_at.is_(None))
        .values(ended_at=now(), reason=reason)
        .returning(Attempt.number)
        .execution_options(synchronize_session=False)
    )
    for _ in closed.all():
        counters.count_end(session, reason)


def waiting_rows(session: Session) -> dict[str, int]:
    """How many rows a worker could take now, by queue: queued jobs in those of their pools, but for those that wait for
    another one's round, and uploads in INTAKE."""
    can_go = (Job.status == JobStatus.QUEUED) & Job.awaits.is_(None)
    by_pool = select(Job.pool, func.count()).where(can_go).group_by(Job.pool)
    waiting = {INTAKE: 0}
    for pool, count in session.execute(by_pool):
        waiting[pool] = count
    for entity in (Model, Dataset):
        unheld = (entity.status == IntakeStatus.VALIDATING) & entity.lease_until.is_(None)
        waiting[INTAKE] += session.scalars(select(func.count()).select_from(entity).where(unheld)).one()
    return waiting
