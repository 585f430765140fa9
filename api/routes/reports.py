"""A job's whole report in one document: what a pipeline keeps of it, and a reader needs to believe it."""

from __future__ import annotations

from fastapi import APIRouter

from api.auth import KeyedRoute, ProjectId
from api.documents import ReportDocument
from api.job_documents import job_documents
from api.pages import RowId, found
from api.problems import EVERYWHERE, documented
from api.routes.rounds import round_documents
from api.services import Here
from store.tables import Job

router = APIRouter(tags=["rounds"], route_class=KeyedRoute)

CONVENTIONS = {
    "sparsity": "the fraction removed of the prunable weights, or units",
    "macs": "1 MAC = 1 multiply-add, of one example; effective leaves masked weights out: no claim of speed",
    "latency_ms": "of the network with its masked weights in place; only units that are cut out make one faster",
    "metrics": "raw, by split; the test split is evaluated and never chosen by",
    "digests": "sha256 of what is stored; a job that was killed or paused ends with those of one that was not, on the "
    "same class of machine (job.determinism), unless its recipe is bounded by seconds",
    "delta": "less those of the dense network, round 0",
}


@router.get("/jobs/{job_id}/report", responses=documented(*EVERYWHERE, "not_found"))
def get_report(services: Here, project_id: ProjectId, job_id: RowId) -> ReportDocument:
    """The job, its dense control, every round and the selected one, with the conventions behind the numbers (after
    Blalock et al. 2020). While the job runs, of what is stored so far."""
    with services.database.reading() as session:
        job = found(session, Job, project_id, job_id)
        [document] = job_documents(session, [job])
        rounds = round_documents(session, job)
    seconds: dict[str, float] = {}
    for round_ in rounds:
        for phase, spent in (round_.seconds or {}).items():
            seconds[phase] = seconds.get(phase, 0.0) + spent
    return ReportDocument(
        job=document,
        conventions=CONVENTIONS,
        dense=rounds[0] if rounds else None,
        selected=next((round_ for round_ in rounds if round_.selected), None),
        rounds=rounds,
        steps=sum(round_.steps or 0 for round_ in rounds),
        seconds=seconds,
    )
