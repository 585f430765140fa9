"""What goes when a job has ended: artifacts of rounds that are not kept, those of expired jobs, and deleted jobs.

Rows go at once, content when a collector finds that nothing refers to it. None of these commits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import CursorResult, Row, delete, insert, select, update
from sqlalchemy.orm import Session

from store import listing
from store.database import moment, now
from store.reopening import reopen
from store.tables import Artifact, Event, Job, JobStatus

BATCH = 20


class StillLive(Exception):
    """A worker may hold the job, or take it."""

    def __init__(self, status: JobStatus) -> None:
        self.status = status
        super().__init__(f"a job that is {status} cannot be deleted; cancel it first, and wait until it has ended")


def due(session: Session) -> Sequence[Row[Job, bool]]:
    """(job, whether it has expired) of ended jobs that may have artifacts to drop; locked until the transaction ends,
    and no other sweeper's meanwhile."""
    return session.execute(
        select(Job, (Job.expires_at < now()).label("has_expired"))
        .where(Job.sweep_at < moment())
        .order_by(Job.sweep_at)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    ).all()


def drop(session: Session, job: Job, positions: Collection[int] | None, reason: str) -> int:
    """Drop the artifacts of these entries, or (None) of all. How many. An event says so where there were any.

    After that the job is due when it expires; where all are dropped, never.
    """
    dropped = delete(Artifact).where(Artifact.job_id == job.id)
    if positions is not None:
        dropped = dropped.where(Artifact.position.in_(positions))
    result = session.execute(dropped.execution_options(synchronize_session=False))
    assert isinstance(result, CursorResult)
    told = 1 if result.rowcount else 0
    sequence = session.execute(
        update(Job)
        .where(Job.id == job.id)
        .values(
            sweep_at=None if positions is None else Job.expires_at,
            version=Job.version + told,
            num_events=Job.num_events + told,
        )
        .returning(Job.num_events)
        .execution_options(synchronize_session=False)
    ).scalar_one()
    if told:
        data = {"reason": reason, "count": result.rowcount}
        session.execute(
            insert(Event).values(job_id=job.id, sequence=sequence, at=now(), type="artifacts.dropped", data=data)
        )
    return result.rowcount


def delete_job(session: Session, project_id: str, job_id: str) -> bool:
    """With all that belongs to it; False where there is none. Raises StillLive."""
    job = listing.one(session, Job, project_id, job_id, lock="change")
    if job is None:
        return False
    if not JobStatus(job.status).is_terminal:
        raise StillLive(JobStatus(job.status))
    session.execute(delete(Job).where(Job.id == job.id).execution_options(synchronize_session=False))
    reopen(session, job.comparison_id)
    return True
