"""A comparison to be shown: its plot, and a summary of it for a pull request."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from api.auth import KeyedRoute, ProjectId
from api.comparison_documents import conclusion_of
from api.comparison_picture import panorama_of
from api.comparison_results import find
from api.comparison_summary import goal_said, summary
from api.conditional import is_current
from api.pages import RowId, found
from api.picture import Format, Theme
from api.problems import EVERYWHERE, documented
from api.routes.plots import MEDIA_TYPES, ThemeName
from api.services import Here, Services
from store import comparisons
from store.tables import Comparison

router = APIRouter(tags=["comparisons"], route_class=KeyedRoute)

EDITION = 1
"""Rises when the same comparison is drawn or told otherwise: what callers keep is old then."""

_UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "nothing has changed since `If-None-Match`"}}
_MARKDOWN: dict[str, Any] = {"text/markdown": {"schema": {"type": "string"}}}


def _responses(format: Format) -> dict[int | str, dict[str, Any]]:
    image = {MEDIA_TYPES[format]: {"schema": {"type": "string", "format": "binary"}}}
    return documented(*EVERYWHERE, "not_found") | _UNCHANGED | {200: {"content": image, "description": "the picture"}}


@router.get("/comparisons/{comparison_id}/plot.svg", response_class=Response, responses=_responses("svg"))
def get_plot_svg(
    request: Request, services: Here, project_id: ProjectId, comparison_id: RowId, theme: ThemeName = "light"
) -> Response:
    """The goal's metric on validation against the fraction of all parameters that is left, on a log scale: a line of
    means and a band over seeds for each recipe, its controls dashed; the dense network, what the goal asks for, and the
    recommended round. While jobs run, of what is stored so far."""
    return _draw(request, services, project_id, comparison_id, "svg", theme)


@router.get("/comparisons/{comparison_id}/plot.png", response_class=Response, responses=_responses("png"))
def get_plot_png(
    request: Request, services: Here, project_id: ProjectId, comparison_id: RowId, theme: ThemeName = "light"
) -> Response:
    """The same in 1200 x 810 pixels."""
    return _draw(request, services, project_id, comparison_id, "png", theme)


@router.get(
    "/comparisons/{comparison_id}/summary.md",
    response_class=Response,
    responses=documented(*EVERYWHERE, "not_found") | {200: {"content": _MARKDOWN, "description": "the summary"}},
)
def get_summary(
    request: Request,
    services: Here,
    project_id: ProjectId,
    comparison_id: RowId,
    plot: Annotated[
        str | None,
        Query(
            max_length=2000,
            pattern=r"^[^\s()<>\x00]+$",
            description="where you have put the plot for readers without a key; null: this service",
        ),
    ] = None,
) -> Response:
    """For a pull request: conclusion, recommendation, table and plot, as GitHub's Markdown."""
    with services.database.reading() as session:
        [whole] = comparisons.read(session, [found(session, Comparison, project_id, comparison_id)])
        link = plot or f"{str(request.base_url).rstrip('/')}/v1/comparisons/{comparison_id}/plot.png"
        text = summary(find(session, whole), conclusion_of(session, whole), link)
    return Response(text, headers={"Cache-Control": "no-store"}, media_type="text/markdown; charset=utf-8")


def _draw(
    request: Request, services: Services, project_id: str, comparison_id: str, format: Format, theme: Theme
) -> Response:
    with services.database.reading() as session:
        [whole] = comparisons.read(session, [found(session, Comparison, project_id, comparison_id)])
        headers = {
            "ETag": f'"{whole.etag}-{format}-{theme}-{EDITION}"',
            "Cache-Control": "private, no-cache",  # kept, and asked about each time: 304 costs two small queries
        }
        if is_current(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        results = find(session, whole)
        picture = panorama_of(session, results, f"goal: {goal_said(results)}")
    headers |= {
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
        "Content-Disposition": f'inline; filename="{comparison_id}.{format}"',
    }
    from api.comparison_plotting import drawn_panorama  # matplotlib: paid by the first picture, not by every process

    return Response(drawn_panorama(picture, format, theme), headers=headers, media_type=MEDIA_TYPES[format])
