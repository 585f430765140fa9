"""The rows that tell where an artifact comes from."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from store.tables import Artifact, Attempt, Dataset, Job, Model, Round


@dataclass(frozen=True)
class Origin:
    artifact: Artifact
    job: Job
    round: Round
    attempt: Attempt
    """That stored the round."""
    previous: Round | None
    """The entry that this one went on from; null: it is the first."""
    model: Model
    dataset: Dataset


def origin_of(session: Session, artifact: Artifact) -> Origin:
    job = session.get_one(Job, artifact.job_id)
    round_ = session.get_one(Round, (job.id, artifact.position))
    return Origin(
        artifact=artifact,
        job=job,
        round=round_,
        attempt=session.get_one(Attempt, (job.id, round_.attempt)),
        previous=session.get(Round, (job.id, artifact.position - 1)),
        model=session.get_one(Model, job.model_id),
        dataset=session.get_one(Dataset, job.dataset_id),
    )
