"""What time does to jobs: leases run out, queues time out, deadlines pass, messages get lost. All of it is safe to
repeat and to run in any number of sweepers at once. None of these commits."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.orm import Session

from store import intake, jobs, leases
from store.database import now
from store.tables import Attempt, Dataset, IntakeStatus, Job, JobStatus, Model
from store.transitions import Trigger, change

LOST = "the worker went silent and its lease ran out"
BATCH = 100


def expire_leases(session: Session) -> int:
    """Rows whose worker has gone silent wait again (or fail, where that happened too often). How many."""
    swept = 0
    for job_id, attempt in leases.expired(session, Job, BATCH):
        jobs.lose(session, job_id, attempt, LOST)
        swept += 1
    for entity in (Model, Dataset):
        for row_id, attempt in leases.expired(session, entity, BATCH):
            intake.lose(session, entity, row_id, attempt, LOST)
            swept += 1
    return swept


def expire_deadlines(session: Session) -> int:
    """Jobs past `deadline_seconds` since they were made, or queued past `queue_timeout_seconds`, fail. How many.

    A worker that still runs one is fenced by the change: its next renewal meets zero rows, and it kills the child.
    """
    swept = 0
    live = [status.value for status in JobStatus if not status.is_terminal]
    for trigger, late, code in (
        (Trigger.DEADLINE, Job.status.in_(live) & (Job.created_at + Job.deadline_seconds < now()), "deadline_exceeded"),
        (
            Trigger.QUEUE_TIMEOUT,
            (Job.status == JobStatus.QUEUED) & (Job.queued_at + Job.queue_timeout_seconds < now()),
            "queue_timeout",
        ),
    ):
        for job_id in session.scalars(select(Job.id).where(late).limit(BATCH).with_for_update(skip_locked=True)):
            message = {
                "deadline_exceeded": "deadline_seconds passed before the job ended; its completed rounds are kept",
                "queue_timeout": "queue_timeout_seconds passed and no worker took the job",
            }[code]
            error = {"code": code, "message": message, "retryable": True}
            if change(session, job_id, trigger, conclusion="timed_out", error=error):
                _close_attempts(session, job_id, code)
                swept += 1
    return swept


def _close_attempts(session: Session, job_id: str, reason: str) -> None:
    session.execute(
        update(Attempt)
        .where(Attempt.job_id == job_id, Attempt.ended_at.is_(None))
        .values(ended_at=now(), reason=reason)
    )


def unrung(session: Session, default_pool: str, patience_seconds: dict[str, float]) -> list[str]:
    """One pool name for each row that waits longer than a message would take; they count as rung from here on.

    `patience_seconds` by pool: short where the pool's queue is empty (the message is lost), long where messages wait
    (all workers are busy), absent where the broker is away.
    """
    pools: list[str] = []
    for pool, patience in patience_seconds.items():
        pools += [pool] * _mark_rung(session, Job, (Job.status == JobStatus.QUEUED) & (Job.pool == pool), patience)
        if pool == default_pool:
            for entity in (Model, Dataset):
                waiting = (entity.status == IntakeStatus.VALIDATING) & entity.lease_until.is_(None)
                pools += [pool] * _mark_rung(session, entity, waiting, patience)
    return pools


def _mark_rung(session: Session, entity: Any, waiting: ColumnElement[bool], patience_seconds: float) -> int:
    silent = or_(entity.rung_at.is_(None), entity.rung_at < now() - patience_seconds)
    rows = select(entity.id).where(waiting, silent).order_by(entity.id).limit(BATCH).with_for_update(skip_locked=True)
    ids = session.scalars(rows).all()
    if ids:
        session.execute(
            update(entity).where(entity.id.in_(ids)).values(rung_at=now()).execution_options(synchronize_session=False)
        )
    return len(ids)


def waiting_pools(session: Session, default_pool: str) -> list[str]:
    """Every pool that has queued jobs, and the default pool, which validations ring."""
    queued = session.scalars(select(Job.pool).where(Job.status == JobStatus.QUEUED).distinct())
    return sorted({default_pool, *queued})
