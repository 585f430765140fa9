"""A job's picture: quality against what is left, round by round, for a pull request or a report."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from api.auth import KeyedRoute, ProjectId
from api.conditional import is_current
from api.pages import RowId, found
from api.picture import Format, Theme, picture_of
from api.problems import EVERYWHERE, documented
from api.services import Here, Services
from store.tables import Job

router = APIRouter(tags=["rounds"], route_class=KeyedRoute)

MEDIA_TYPES: dict[Format, str] = {"svg": "image/svg+xml", "png": "image/png"}
PICTURE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
}
EDITION = 1
"""Rises when the same job is drawn otherwise: pictures that callers keep are old ones then."""

ThemeName = Annotated[Theme, Query(description="the picture has its own background")]


def _responses(format: Format) -> dict[int | str, dict[str, Any]]:
    image = {MEDIA_TYPES[format]: {"schema": {"type": "string", "format": "binary"}}}
    return documented(*EVERYWHERE, "not_found") | {
        200: {"content": image, "description": "the picture"},
        304: {"description": "nothing has changed since `If-None-Match`"},
    }


@router.get("/jobs/{job_id}/plot.svg", response_class=Response, responses=_responses("svg"))
def get_plot_svg(
    request: Request, services: Here, project_id: ProjectId, job_id: RowId, theme: ThemeName = "light"
) -> Response:
    """Validation accuracy (the loss, where there is none) against the fraction that is left, on a log scale, by round;
    and the test split's, the dense network, floor and gates, the Pareto front and the selected round. While the job
    runs, of what is stored so far."""
    return _answer(request, services, project_id, job_id, "svg", theme)


@router.get("/jobs/{job_id}/plot.png", response_class=Response, responses=_responses("png"))
def get_plot_png(
    request: Request, services: Here, project_id: ProjectId, job_id: RowId, theme: ThemeName = "light"
) -> Response:
    """The same in 1200 x 720 pixels."""
    return _answer(request, services, project_id, job_id, "png", theme)


def _answer(
    request: Request, services: Services, project_id: str, job_id: str, format: Format, theme: Theme
) -> Response:
    with services.database.reading() as session:
        job = found(session, Job, project_id, job_id)
        headers = {
            "ETag": f'"r{job.version}-{format}-{theme}-{EDITION}"',
            "Cache-Control": "private, no-cache",  # kept, and asked about each time: 304 costs one small query
        }
        if is_current(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        picture = picture_of(session, job)
    headers |= PICTURE_HEADERS | {"Content-Disposition": f'inline; filename="{job_id}.{format}"'}
    from api.plotting import drawn  # a second, and 50 MB: paid by the first picture, not by every process

    return Response(drawn(picture, format, theme), headers=headers, media_type=MEDIA_TYPES[format])
