"""The checkpoint of a job: where its training stands inside the entry that is not stored yet. None of these commits.

What takes a checkpoint's place, or makes it useless, discards its content: at one a minute, each as large as model and
optimiser together, those of an hour would fill a disk. Nobody else reads it: an attempt that does holds the job, and
backups leave checkpoints out.
"""

from __future__ import annotations

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from store import collection
from store.blobs import StoredBlob
from store.database import now
from store.leases import Fenced, holds
from store.tables import Checkpoint, Job


def record(
    session: Session, job: Job, position: int, step: int, blob: StoredBlob, *, may_be_progress: bool = True
) -> None:
    """In the place of the last one, in the transaction that referred to its blob (`store.blobs.refer`).

    Only work that no attempt had stored before sets `failures` back: a job that kills its child at the same step again
    and again ends, however often it is taken up before that step. Nor where it may not be progress: a child may say
    any step.

    Raises Fenced where the attempt or the position is not the awaited one.
    """
    awaited = [*holds(Job, job.id, job.attempt), Job.last_position == position - 1]
    if session.scalar(select(Job.id).where(*awaited).with_for_update()) is None:
        raise Fenced(job.id)
    of_this_entry = (Checkpoint.job_id == job.id, Checkpoint.position == position)
    furthest = session.scalar(select(Checkpoint.furthest_step).where(*of_this_entry))
    furthest = -1 if furthest is None else furthest
    if step > furthest and may_be_progress:
        session.execute(
            update(Job).where(Job.id == job.id, Job.failures > 0).values(failures=0, version=Job.version + 1)
        )
    replaced = _delete(session, job.id)
    session.execute(
        insert(Checkpoint).values(
            job_id=job.id,
            attempt=job.attempt,
            position=position,
            step=step,
            furthest_step=max(step, furthest),
            blob_digest=blob.digest,
            created_at=now(),
        )
    )
    _discard(session, replaced)


def find(session: Session, job_id: str, position: int) -> Checkpoint | None:
    """That of the entry at `position`."""
    return session.scalar(select(Checkpoint).where(Checkpoint.job_id == job_id, Checkpoint.position == position))


def remove(session: Session, job_id: str) -> None:
    """With the transaction that stores its entry, or ends the job."""
    _discard(session, _delete(session, job_id))


def _delete(session: Session, job_id: str) -> str | None:
    """Its content's digest."""
    gone = delete(Checkpoint).where(Checkpoint.job_id == job_id).returning(Checkpoint.blob_digest)
    return session.scalar(gone.execution_options(synchronize_session=False))


def _discard(session: Session, digest: str | None) -> None:
    if digest is not None:
        collection.discard_unless_referenced(session, digest)
