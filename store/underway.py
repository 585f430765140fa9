"""Which rounds workers compute now, and who waits for them. None of these commits.

A row is there exactly while a worker holds its job and computes that round: it goes in the transaction that stores the
round or ends the hold, whatever ends it (`store.jobs.record_round`, `store.transitions.change`). So there is nothing to
expire, and `jobs.awaits` never names a round that nobody computes: whoever removes the row wakes those that wait for
it. Locks are taken in one order, the own job's row, then a row here, then those of jobs that wait.
"""

from __future__ import annotations

from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from store.tables import Job, JobStatus, Underway

_WOKEN = "woken"


def begin(session: Session, job: Job, name: str, number: int | None) -> bool:
    """Whether the round is this job's to compute; False: another one's worker is at it.

    Two that begin at once: the primary key makes the second wait for the first one's commit.
    """
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    row = {"project_id": job.project_id, "name": name, "job_id": job.id, "number": number, "is_awaited": False}
    begun = dialect.insert(Underway).values(row)
    return (
        session.execute(
            begun.on_conflict_do_nothing(index_elements=[Underway.project_id, Underway.name]).returning(Underway.name)
        ).scalar()
        is not None
    )


def end(session: Session, job_id: str) -> bool:
    """This job's worker computes its round no longer: jobs that wait for it are free. Whether there were any."""
    ended = session.execute(
        delete(Underway)
        .where(Underway.job_id == job_id)
        .returning(Underway.project_id, Underway.name, Underway.is_awaited)
        .execution_options(synchronize_session=False)
    ).first()
    if ended is None or not ended.is_awaited:
        return False
    # In a statement of its own: it sees whoever came to wait before the row was ours to delete.
    woken = session.scalars(
        update(Job)
        .where(Job.project_id == ended.project_id, Job.awaits == ended.name)
        .values(awaits=None, version=Job.version + 1)
        .returning(Job.pool)
        .execution_options(synchronize_session=False)
    ).all()
    session.info.setdefault(_WOKEN, []).extend(woken)
    return bool(woken)


def woken(session: Session) -> list[str]:
    """The pool of each job that this transaction freed: to be rung for, once it is committed."""
    pools: list[str] = session.info.pop(_WOKEN, [])
    return pools


def wait(session: Session, job_id: str, project_id: str, name: str) -> bool:
    """Let a queued job wait for a round; False where there is nothing to wait for, or the job is not as it was.

    The round's row is locked first, and so cannot go before `awaits` is written: whoever deletes it finds the job.
    """
    queued = (Job.id == job_id, Job.status == JobStatus.QUEUED, Job.awaits.is_(None))
    if session.scalar(select(Job.id).where(*queued).with_for_update(skip_locked=True)) is None:
        return False
    underway = session.scalar(
        update(Underway)
        .where(Underway.project_id == project_id, Underway.name == name)
        .values(is_awaited=True)
        .returning(Underway.job_id)
        .execution_options(synchronize_session=False)
    )
    if underway is None:
        return False
    session.execute(
        update(Job)
        .where(*queued)
        .values(awaits=name, version=Job.version + 1)
        .execution_options(synchronize_session=False)
    )
    return True
