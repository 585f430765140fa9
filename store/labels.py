"""A job's metadata: shown with it, changed, and found by. None of these commits."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import ColumnElement, delete, insert, select, update
from sqlalchemy.orm import Session

from store import listing
from store.database import now
from store.tables import Event, Job, JobLabel, JobStatus
from store.transitions import InvalidTransition

MAX_LABELS = 16


class TooManyLabels(Exception):
    pass


def write(session: Session, job: Job) -> None:
    """Of a job that is new, or was changed."""
    session.execute(delete(JobLabel).where(JobLabel.job_id == job.id).execution_options(synchronize_session=False))
    labels: Mapping[str, str] = job.options.get("metadata", {})
    rows = [{"job_id": job.id, "project_id": job.project_id, "key": k, "value": v} for k, v in labels.items()]
    if rows:
        session.execute(insert(JobLabel).values(rows))


def has(project_id: str, key: str, value: str) -> ColumnElement[bool]:
    """A condition on jobs, read from an index that ends in the job: the same on both databases, and no path into a
    JSON document is made of what a caller wrote."""
    found = select(JobLabel.job_id).where(
        JobLabel.project_id == project_id, JobLabel.key == key, JobLabel.value == value
    )
    return Job.id.in_(found)


def change_job(
    session: Session, project_id: str, job_id: str, metadata: Mapping[str, str | None] | None, priority: int | None
) -> Job | None:
    """`metadata` is merged into what is there, a null takes its key out (RFC 7396). None: no such job here.

    Raises InvalidTransition where a job that has ended should be given a priority, TooManyLabels.
    """
    job = listing.one(session, Job, project_id, job_id, lock="change")
    if job is None:
        return None
    if priority is not None and JobStatus(job.status).is_terminal:
        raise InvalidTransition(JobStatus(job.status), "be given a priority")
    before = job.options.get("metadata", {})
    labels = {**before, **(metadata or {})}
    labels = {key: value for key, value in labels.items() if value is not None}
    if len(labels) > MAX_LABELS:
        raise TooManyLabels(f"the job would have {len(labels)} entries, and may have {MAX_LABELS}; null takes one out")
    changed = {"priority": priority} if priority not in (None, job.priority) else {}
    told = [*changed, *(["metadata"] if labels != before else [])]
    if not told:
        return job
    sequence = session.execute(
        update(Job)
        .where(Job.id == job.id)
        .values(
            **changed,
            options={**job.options, "metadata": labels},
            version=Job.version + 1,
            num_events=Job.num_events + 1,
        )
        .returning(Job.num_events)
        .execution_options(synchronize_session=False)
    ).scalar_one()
    data = {"fields": told, **changed}
    session.execute(insert(Event).values(job_id=job.id, sequence=sequence, at=now(), type="job.updated", data=data))
    session.refresh(job)
    write(session, job)
    return job
