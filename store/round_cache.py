"""Rounds that exist already: found by their names, within the project, and taken over. None of these commits.

There is no cache beside the rounds: any job's stored entry serves, as long as its files are there. Who takes it over
gets rows of his own that refer to the same content, so that nothing which becomes of the other job matters to him.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import exists, select, update
from sqlalchemy.orm import Session

from store import jobs
from store.blobs import StoredBlob
from store.database import now
from store.listing import PROVEN
from store.tables import Artifact, Blob, Job, Round


def find(session: Session, project_id: str, name: str) -> Round | None:
    """An entry of that name whose files are all there: the first that was stored."""
    candidates = session.scalars(
        select(Round)
        .join(Job, Job.id == Round.job_id)
        .where(
            Round.name == name,
            Job.project_id == project_id,
            # Files of an entry go together: those of most candidates are there, or none.
            exists().where(Artifact.job_id == Round.job_id, Artifact.position == Round.position),
        )
        .order_by(Round.created_at, Round.job_id)
        .limit(3)
    )
    return next((row for row in candidates if _artifacts(session, row) is not None), None)


def _artifacts(session: Session, row: Round) -> Sequence[Artifact] | None:
    """Those that the entry was stored with; None where one is gone, or its content was found damaged."""
    artifacts = session.scalars(
        select(Artifact)
        .join(Blob, Blob.digest == Artifact.blob_digest)
        .where(Artifact.job_id == row.job_id, Artifact.position == row.position, Blob.suspect.is_(False))
    ).all()
    stored = [a for a in artifacts if row.digests.get(a.kind) == a.blob_digest]
    return stored if len(stored) == len(row.digests) else None


def adopt(session: Session, job: Job, source: Round, lease_seconds: float) -> bool:
    """The source's entry as the next one of this job; False where its files have gone meanwhile. Raises Fenced.

    The content's rows are locked, in one order, and touched before they are referred to: a collector that comes second
    leaves them, and of one that came first nothing is found.
    """
    artifacts = _artifacts(session, source)
    if artifacts is None:
        return False
    digests = sorted({artifact.blob_digest for artifact in artifacts})
    held = select(Blob).where(Blob.digest.in_(digests)).order_by(Blob.digest).with_for_update()
    blobs = {blob.digest: StoredBlob(blob.digest, blob.size_bytes, blob.name) for blob in session.scalars(held)}
    if len(blobs) < len(digests):
        return False
    session.execute(
        update(Blob)
        .where(Blob.digest.in_(digests))
        .values(touched_at=now())
        .execution_options(synchronize_session=False)
    )
    jobs.record_round(
        session,
        job,
        position=source.position,
        number=source.number,
        sparsity=source.sparsity,
        report=source.report,
        artifacts=[jobs.NewArtifact(a.kind, a.format, a.filename, blobs[a.blob_digest]) for a in artifacts],
        lease_seconds=lease_seconds,
        name=source.name,
        adopted_from=source.adopted_from or source.job_id,
    )
    return True


def disagreement(session: Session, job: Job, name: str, digests: Mapping[str, str]) -> dict[str, object] | None:
    """How an entry that this job computed differs from one of the same name that another computed: {job, kinds}; None
    where it does not, or where there is no other. Digests are known still when files are gone."""
    other = session.execute(
        select(Round.job_id, Round.digests)
        .join(Job, Job.id == Round.job_id)
        .where(Round.name == name, Job.project_id == job.project_id, Job.id != job.id)
        .order_by(Round.created_at, Round.job_id)
        .limit(1)
    ).first()
    if other is None:
        return None
    kinds = [kind for kind in PROVEN if kind in digests and other.digests.get(kind, digests[kind]) != digests[kind]]
    return {"job": other.job_id, "kinds": kinds} if kinds else None
