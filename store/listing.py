"""What is read for display: one row of a project, pages of rows, and what stands around a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session, aliased

from store.database import now
from store.tables import (
    ApiKey,
    Artifact,
    Attempt,
    AuditEntry,
    Blob,
    Comparison,
    Dataset,
    Job,
    JobStatus,
    Model,
    Round,
    TrustRule,
    Underway,
    Webhook,
)

Listed = TypeVar("Listed", Model, Dataset, Job, ApiKey, TrustRule, AuditEntry, Webhook, Comparison)


Lock = Literal["refer", "change"]
"""Until the transaction ends the row stays (so that a foreign key to it can be written), or is ours alone."""


def one(
    session: Session, entity: type[Listed], project_id: str, row_id: str, lock: Lock | None = None
) -> Listed | None:
    wanted = select(entity).where(entity.id == row_id, entity.project_id == project_id)
    if lock is not None:
        wanted = wanted.with_for_update(read=lock == "refer", key_share=lock == "refer")
    return session.scalar(wanted)


def page(
    session: Session,
    entity: type[Listed],
    project_id: str,
    after: str | None,
    limit: int,
    *conditions: ColumnElement[bool],
) -> tuple[list[Listed], bool]:
    """(newest first, from behind the id `after`; whether more follow)."""
    wanted = select(entity).where(entity.project_id == project_id, *conditions)
    if after is not None:
        wanted = wanted.where(entity.id < after)
    rows = list(session.scalars(wanted.order_by(entity.id.desc()).limit(limit + 1)))
    return rows[:limit], len(rows) > limit


def sizes_bytes(session: Session, rows: Sequence[Model] | Sequence[Dataset]) -> dict[str | None, int]:
    """By digest, of the rows' contents; a row without content has no entry."""
    digests = [row.blob_digest for row in rows if row.blob_digest is not None]
    found = session.execute(select(Blob.digest, Blob.size_bytes).where(Blob.digest.in_(digests)))
    return dict(found.all())


@dataclass(frozen=True)
class Surroundings:
    """Of one job. `round_numbers` holds the number (null: final) of the entries at its last and selected position."""

    attempts: list[Attempt]
    round_numbers: dict[int, int | None]
    num_rounds_of_attempt: int
    """Entries that the latest attempt stored."""
    queue_position: int | None
    """1: next in its pool, over all projects; null where the job is not queued."""
    waits_for: tuple[str, int | None] | None
    """The job whose worker computes the round that it needs, and the round's number (null: the final entry)."""
    read_at: float


def surroundings(session: Session, jobs: Sequence[Job]) -> dict[str, Surroundings]:
    """By job id. A fixed number of queries for any number of jobs."""
    ids = [job.id for job in jobs]
    attempts = session.scalars(select(Attempt).where(Attempt.job_id.in_(ids)).order_by(Attempt.number)).all()
    numbers = session.execute(
        select(Round.job_id, Round.position, Round.number)
        .join(Job, Job.id == Round.job_id)
        .where(Job.id.in_(ids), or_(Round.position == Job.last_position, Round.position == Job.selected_position))
    ).all()
    stored = session.execute(
        select(Round.job_id, func.count())
        .join(Job, (Job.id == Round.job_id) & (Job.attempt == Round.attempt))
        .where(Job.id.in_(ids))
        .group_by(Round.job_id)
    )
    num_stored = dict(stored.all())
    waited_for = {
        row.id: (row.job_id, row.number)
        for row in session.execute(
            select(Job.id, Underway.job_id, Underway.number)
            .join(Underway, (Underway.project_id == Job.project_id) & (Underway.name == Job.awaits))
            .where(Job.id.in_([job.id for job in jobs if job.awaits is not None]))
        )
    }
    queued = _queue_positions(session, [job.id for job in jobs if job.status == JobStatus.QUEUED])
    read_at = session.scalars(select(now())).one()
    return {
        job_id: Surroundings(
            attempts=[attempt for attempt in attempts if attempt.job_id == job_id],
            round_numbers={row.position: row.number for row in numbers if row.job_id == job_id},
            num_rounds_of_attempt=num_stored.get(job_id, 0),
            queue_position=queued.get(job_id),
            waits_for=waited_for.get(job_id),
            read_at=read_at,
        )
        for job_id in ids
    }


def goes_first(ahead: type[Job]) -> ColumnElement[bool]:
    """Of two queued jobs of a pool, or it is the job itself: by priority, then age. `store.turns` goes by that within a
    project; between projects it is fair."""
    return or_(ahead.priority > Job.priority, (ahead.priority == Job.priority) & (ahead.id <= Job.id))


def _queue_positions(session: Session, ids: list[str]) -> dict[str, int]:
    """How many queued jobs of the same pool a worker takes first, and the job itself."""
    ahead = aliased(Job)
    count = (
        select(func.count())
        .select_from(ahead)
        .where(ahead.pool == Job.pool, ahead.status == JobStatus.QUEUED, goes_first(ahead))
        .scalar_subquery()
    )
    return dict(session.execute(select(Job.id, count).where(Job.id.in_(ids))).all())


@dataclass(frozen=True)
class OfferedArtifact:
    artifact: Artifact
    round_number: int | None
    """Null: of the final entry."""


def offered_artifacts(session: Session, job: Job) -> list[OfferedArtifact]:
    """In order of position, of the kinds that the job offers; the others are stored for a resume alone."""
    found = session.execute(
        select(Artifact, Round.number)
        .join(Round, (Round.job_id == Artifact.job_id) & (Round.position == Artifact.position))
        .where(Artifact.job_id == job.id, Artifact.kind.in_(job.artifacts))
        .order_by(Artifact.position, Artifact.kind)
    )
    return [OfferedArtifact(artifact, number) for artifact, number in found]


PROVEN = ("model", "masks", "ticket", "sparse")
"""Kinds whose bytes are the same whenever the tensors are."""


def offered_artifact(session: Session, project_id: str | None, artifact_id: str) -> OfferedArtifact | None:
    """Of a project; None: of any, for a caller who was let in by something else than a key."""
    wanted = (
        select(Artifact, Round.number, Job.artifacts)
        .join(Round, (Round.job_id == Artifact.job_id) & (Round.position == Artifact.position))
        .join(Job, Job.id == Artifact.job_id)
        .where(Artifact.id == artifact_id)
    )
    if project_id is not None:
        wanted = wanted.where(Artifact.project_id == project_id)
    found = session.execute(wanted).first()
    if found is None or found.Artifact.kind not in found.artifacts:
        return None
    return OfferedArtifact(found.Artifact, found.number)
