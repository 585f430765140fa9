"""Rounds: what each step of a job measured, beside the dense network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from sqlalchemy.orm import Session

from api.auth import KeyedRoute, ProjectId
from api.documents import ArtifactDocument, RoundDocument
from api.job_documents import entry_name
from api.pages import Page, RowId, found, missing
from api.problems import EVERYWHERE, documented
from api.reported import numbers_in
from api.routes.artifacts import artifact_document
from api.services import Here
from pruning.selection import RoundRecord, pareto_front
from store import jobs, listing
from store.tables import Job, Round

router = APIRouter(tags=["rounds"], route_class=KeyedRoute)


@router.get("/jobs/{job_id}/rounds", responses=documented(*EVERYWHERE, "not_found"))
def list_rounds(services: Here, project_id: ProjectId, job_id: RowId) -> Page[RoundDocument]:
    """All that are stored so far, in order; the unnumbered final entry last. Always one page."""
    with services.database.reading() as session:
        return Page(data=round_documents(session, found(session, Job, project_id, job_id)))


@router.get("/jobs/{job_id}/rounds/{number}", responses=documented(*EVERYWHERE, "not_found"))
def get_round(services: Here, project_id: ProjectId, job_id: RowId, number: str) -> RoundDocument:
    """`number` is a round's number, or `final`."""
    with services.database.reading() as session:
        documents = round_documents(session, found(session, Job, project_id, job_id))
    for document in documents:
        if str(entry_name(document.number)) == number:
            return document
    raise missing(f"round {number} of {job_id}")


def round_documents(session: Session, job: Job) -> list[RoundDocument]:
    rounds = jobs.stored_rounds(session, job.id)
    front = front_of(rounds)
    artifacts: dict[int, list[ArtifactDocument]] = {}
    for offered in listing.offered_artifacts(session, job):
        artifacts.setdefault(offered.artifact.position, []).append(artifact_document(offered))
    return [
        RoundDocument.model_validate(
            {
                **round_.report,
                "object": "round",
                "number": round_.number,
                "final": round_.number is None,
                "selected": round_.position == job.selected_position,
                "delta": delta(round_.report["metrics"], rounds[0].report["metrics"]),
                "pareto": round_.position in front,
                "digests": {kind: digest for kind, digest in round_.digests.items() if kind in listing.PROVEN},
                "artifacts": artifacts.get(round_.position, []),
                "adopted_from": round_.adopted_from
                and {"job": round_.adopted_from, "round": entry_name(round_.number)},
                "created_at": round_.created_at,
            }
        )
        for round_ in rounds
    ]


def front_of(rounds: Sequence[Round]) -> set[int]:
    """Positions of those on the Pareto front."""
    return pareto_front(
        [
            RoundRecord(row.position, row.number, row.sparsity, numbers_in(row.report["metrics"].get("validation")))
            for row in rounds
        ]
    )


def delta(metrics: dict[str, Any], dense: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Each split's metrics less those of the dense network, where both have them."""
    before = {split: numbers_in(dense[split]) for split in metrics if split in dense}
    return {
        split: {
            name: value - before[split][name] for name, value in numbers_in(values).items() if name in before[split]
        }
        for split, values in metrics.items()
        if split in before
    }
