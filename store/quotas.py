"""What a project may have: jobs that have not ended, and bytes. Checked in the transaction that adds to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select, union
from sqlalchemy.orm import Session

from store.settings import Settings
from store.tables import Artifact, Blob, Dataset, Job, JobStatus, Model, Project

LIVE_JOBS, STORED_BYTES = "live_jobs", "stored_bytes"


class QuotaExceeded(Exception):
    """`used` counts what the refused request would have added."""

    def __init__(self, quota: str, limit: int, used: int) -> None:
        super().__init__(f"the project may have {limit} {quota.replace('_', ' ')}, this would make it {used}")
        self.quota, self.limit, self.used = quota, limit, used


@dataclass(frozen=True)
class Limits:
    live_jobs: int | None
    stored_bytes: int | None


def limits_of(project: Project, settings: Settings) -> Limits:
    """The project's own, else the service's; None: no limit."""
    own_jobs, own_bytes = project.max_live_jobs, project.max_stored_bytes
    return Limits(
        settings.max_live_jobs if own_jobs is None else own_jobs,
        settings.max_stored_bytes if own_bytes is None else own_bytes,
    )


def check(session: Session, project_id: str, settings: Settings, *, has_new_job: bool = False) -> None:
    """Once the new rows are in: they count. Raises QuotaExceeded; the caller's transaction then leaves nothing of them.

    The project's row is locked, so that of two requests that see the same last place one waits and then counts anew.
    The lock is of the kind that lets others refer to the project: a worker that stores a round does not wait.
    """
    limits = limits_of(session.get_one(Project, project_id), settings)
    if limits == Limits(None, None):
        return
    session.execute(select(Project.id).where(Project.id == project_id).with_for_update(key_share=True))
    if limits.live_jobs is not None and has_new_job:
        used = count_live_jobs(session, project_id)
        if used > limits.live_jobs:
            raise QuotaExceeded(LIVE_JOBS, limits.live_jobs, used)
    if limits.stored_bytes is not None:
        used = count_stored_bytes(session, project_id)
        if used > limits.stored_bytes:
            raise QuotaExceeded(STORED_BYTES, limits.stored_bytes, used)


def check_coming(session: Session, project_id: str, settings: Settings, size_bytes: int) -> None:
    """Before content of this size is read: refuse what `check` would refuse at its end. Content that the project has
    already adds nothing, and is of a size that it has already: such content is read first. Raises QuotaExceeded."""
    limit = limits_of(session.get_one(Project, project_id), settings).stored_bytes
    if limit is None:
        return
    used = count_stored_bytes(session, project_id) + size_bytes
    same_size = select(Blob.digest).where(Blob.digest.in_(_digests(project_id)), Blob.size_bytes == size_bytes)
    if used > limit and session.scalar(same_size.limit(1)) is None:
        raise QuotaExceeded(STORED_BYTES, limit, used)


def count_live_jobs(session: Session, project_id: str) -> int:
    live = [status.value for status in JobStatus if not status.is_terminal]
    return session.scalars(
        select(func.count()).select_from(Job).where(Job.project_id == project_id, Job.status.in_(live))
    ).one()


def count_stored_bytes(session: Session, project_id: str) -> int:
    """Each content once, however many rows refer to it."""
    total = select(func.coalesce(func.sum(Blob.size_bytes), 0)).where(Blob.digest.in_(_digests(project_id)))
    return int(session.scalars(total).one())


def _digests(project_id: str) -> Select[Any]:
    found = union(
        *(
            select(entity.blob_digest).where(entity.project_id == project_id, entity.blob_digest.is_not(None))
            for entity in (Model, Dataset, Artifact)
        )
    ).subquery()
    return select(found.c.blob_digest)
