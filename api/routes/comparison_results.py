"""What a comparison found: its table, its front and its recommendation."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from api.auth import KeyedRoute, ProjectId
from api.comparison_results import (
    RecommendationDocument,
    TableDocument,
    as_csv,
    compared_rows,
    find,
    recommendation_document,
    table_document,
)
from api.conditional import is_current, prefers
from api.pages import RowId, found
from api.problems import EVERYWHERE, documented
from api.services import Here, Services
from store import comparisons
from store.tables import Comparison

router = APIRouter(tags=["comparisons"], route_class=KeyedRoute)

_CSV: dict[str, Any] = {"text/csv": {"schema": {"type": "string"}}}
_UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "nothing has changed since `If-None-Match`"}}
_TABLE = documented(*EVERYWHERE, "not_found") | _UNCHANGED | {200: {"content": _CSV}}


@router.get("/comparisons/{comparison_id}/table", response_model=TableDocument, responses=_TABLE)
def get_table(request: Request, services: Here, project_id: ProjectId, comparison_id: RowId) -> Response:
    """Per recipe and round: mean and standard deviation over seeds, of the goal's metric on validation. As CSV with
    `Accept: text/csv`, or at `table.csv`. While jobs run, of what is stored so far."""
    as_text = prefers(request, "text/csv", "application/json")
    return _answer(request, services, project_id, comparison_id, "table", as_text=as_text)


@router.get(
    "/comparisons/{comparison_id}/table.csv",
    response_class=Response,
    responses=documented(*EVERYWHERE, "not_found") | _UNCHANGED | {200: {"content": _CSV, "description": "the table"}},
)
def get_table_csv(request: Request, services: Here, project_id: ProjectId, comparison_id: RowId) -> Response:
    """The same as CSV: `ComparedRow`'s fields are its columns, in their order."""
    return _answer(request, services, project_id, comparison_id, "table", as_text=True)


@router.get("/comparisons/{comparison_id}/front", response_model=TableDocument, responses=_TABLE)
def get_front(request: Request, services: Here, project_id: ProjectId, comparison_id: RowId) -> Response:
    """The recipes' own rows, the smallest last: those with `pareto` are on the front, another beats all others. As CSV
    with `Accept: text/csv`."""
    as_text = prefers(request, "text/csv", "application/json")
    return _answer(request, services, project_id, comparison_id, "front", as_text=as_text)


@router.get(
    "/comparisons/{comparison_id}/recommendation",
    response_model=RecommendationDocument,
    responses=documented(*EVERYWHERE, "not_found") | _UNCHANGED,
)
def get_recommendation(request: Request, services: Here, project_id: ProjectId, comparison_id: RowId) -> Response:
    """Which recipe and round to take, how sure that is, and its artifacts; or what came nearest."""
    with services.database.reading() as session:
        [whole] = comparisons.read(session, [found(session, Comparison, project_id, comparison_id)])
        headers = _headers(f"{whole.etag}-recommendation")
        if is_current(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        document = recommendation_document(session, find(session, whole))
    return Response(document.model_dump_json(), headers=headers, media_type="application/json")


def _answer(
    request: Request, services: Services, project_id: str, comparison_id: str, which: str, *, as_text: bool
) -> Response:
    with services.database.reading() as session:
        [whole] = comparisons.read(session, [found(session, Comparison, project_id, comparison_id)])
        headers = _headers(f"{whole.etag}-{which}-{'csv' if as_text else 'json'}") | {"Vary": "Accept"}
        if is_current(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        results = find(session, whole)
    rows = compared_rows(results)
    if which == "front":
        rows = sorted((row for row in rows if row.control is None), key=lambda row: row.removed)
    if as_text:
        headers["Content-Disposition"] = f'attachment; filename="{comparison_id}-{which}.csv"'
        return Response(as_csv(rows), headers=headers, media_type="text/csv; charset=utf-8")
    document = table_document(results, rows)
    return Response(document.model_dump_json(), headers=headers, media_type="application/json")


def _headers(etag: str) -> dict[str, str]:
    """Kept, and asked about each time: 304 costs two small queries."""
    return {"ETag": f'"{etag}"', "Cache-Control": "private, no-cache"}
