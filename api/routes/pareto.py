"""What a job found, as a table: its Pareto front of sparsity and quality, as JSON or CSV."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from api.auth import KeyedRoute, ProjectId
from api.conditional import is_current, prefers
from api.measured import MeasuredRound, ParetoDocument, as_csv, measured_rounds, metric_of
from api.pages import RowId, found
from api.problems import EVERYWHERE, documented
from api.services import Here, Services
from store.tables import Job

router = APIRouter(tags=["rounds"], route_class=KeyedRoute)

Which = Annotated[Literal["front", "all"], Query(description="only those on the front, or every trained round")]

_CSV: dict[str, Any] = {"text/csv": {"schema": {"type": "string"}}}
_UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "nothing has changed since `If-None-Match`"}}


@router.get(
    "/jobs/{job_id}/pareto",
    response_model=ParetoDocument,
    responses=documented(*EVERYWHERE, "not_found") | _UNCHANGED | {200: {"content": _CSV}},
)
def get_pareto(
    request: Request, services: Here, project_id: ProjectId, job_id: RowId, rounds: Which = "front"
) -> Response:
    """The trained rounds that no other one beats: none is at least as sparse and as good on validation, and better in
    one of the two. As CSV with `Accept: text/csv`, or at `pareto.csv`, in the fields' order. While the job runs, of
    what is stored so far."""
    return _answer(
        request, services, project_id, job_id, rounds, as_text=prefers(request, "text/csv", "application/json")
    )


@router.get(
    "/jobs/{job_id}/pareto.csv",
    response_class=Response,
    responses=documented(*EVERYWHERE, "not_found") | _UNCHANGED | {200: {"content": _CSV, "description": "the table"}},
)
def get_pareto_csv(
    request: Request, services: Here, project_id: ProjectId, job_id: RowId, rounds: Which = "front"
) -> Response:
    """The same as CSV: `MeasuredRound`'s fields are its columns, in their order."""
    return _answer(request, services, project_id, job_id, rounds, as_text=True)


def _answer(
    request: Request, services: Services, project_id: str, job_id: str, which: str, *, as_text: bool
) -> Response:
    with services.database.reading() as session:
        job = found(session, Job, project_id, job_id)
        headers = {
            "ETag": f'"r{job.version}-{"csv" if as_text else "json"}-{which}"',
            "Cache-Control": "private, no-cache",  # kept, and asked about each time: 304 costs one small query
            "Vary": "Accept",
        }
        if is_current(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        every: list[MeasuredRound] = measured_rounds(session, job)
    rows = [row for row in every if row.pareto or which == "all"]
    if as_text:
        headers["Content-Disposition"] = f'attachment; filename="{job_id}.csv"'
        return Response(as_csv(rows), headers=headers, media_type="text/csv; charset=utf-8")
    document = ParetoDocument(job=job_id, metric=metric_of(every), data=rows)
    return Response(document.model_dump_json(), headers=headers, media_type="application/json")
