"""A job made again, as it was asked for, once the first one has ended. Never commits."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from store import jobs, listing
from store.reopening import reopen
from store.tables import Job, JobStatus
from store.transitions import RETRY, InvalidTransition

ASKED = (
    *("project_id", "model_id", "dataset_id", "recipe", "gates", "select", "artifacts", "pool", "priority"),
    *("max_failures", "queue_timeout_seconds", "deadline_seconds", "options", "planned_rounds"),
    *("keep_rounds", "expires_in_seconds"),
    *("comparison_id", "comparison_recipe"),
)
"""Columns that a retry shares with its job; all others tell of one life."""

_LIVE = [status.value for status in JobStatus if not status.is_terminal]


def retry(session: Session, project_id: str, job_id: str) -> tuple[Job, bool] | None:
    """(the retry, whether it is new). None: no such job here. Raises InvalidTransition where the job has not ended.

    A retry that has not ended is given again, so that whoever never heard the answer may ask once more. The job's row
    is locked: of two that ask at once, the second finds the first one's.
    """
    job = listing.one(session, Job, project_id, job_id, lock="change")
    if job is None:
        return None
    if not JobStatus(job.status).is_terminal:
        raise InvalidTransition(JobStatus(job.status), RETRY)
    live = select(Job).where(Job.retried_from == job.id, Job.status.in_(_LIVE)).order_by(Job.id.desc()).limit(1)
    if (again := session.scalar(live)) is not None:
        return again, False
    asked = {name: getattr(job, name) for name in ASKED}
    reopen(session, job.comparison_id)
    return jobs.submit(session, **asked, retried_from=job.id), True
