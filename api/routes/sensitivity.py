"""What each layer alone costs: a scan as JSON, CSV and as a picture."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from api.auth import KeyedRoute, ProjectId
from api.conditional import is_current
from api.pages import RowId, found
from api.picture import Format, Theme
from api.problems import EVERYWHERE, documented
from api.routes.plots import MEDIA_TYPES, PICTURE_HEADERS, ThemeName
from api.sensitivity import SensitivityDocument, as_csv, sensitivity_of
from api.services import Here, Services
from store.tables import Job, Model

router = APIRouter(tags=["rounds"], route_class=KeyedRoute)

EDITION = 1
"""Rises when the same scan is drawn otherwise."""
_PROBLEMS = documented(*EVERYWHERE, "not_found", "no_sensitivity", "not_measured_yet")


def _content(media_type: str) -> dict[int | str, dict[str, Any]]:
    schema = {"type": "string"} if media_type == "text/csv" else {"type": "string", "format": "binary"}
    return _PROBLEMS | {
        200: {"content": {media_type: {"schema": schema}}, "description": "the scan"},
        304: {"description": "nothing has changed since `If-None-Match`"},
    }


@router.get("/jobs/{job_id}/sensitivity", responses=_PROBLEMS)
def get_sensitivity(services: Here, project_id: ProjectId, job_id: RowId) -> SensitivityDocument:
    """The dense network's validation metrics where each layer alone is pruned to each sparsity and not trained again,
    of a recipe with `sensitivity`. Layers that lose much early are those to spare: `scope.overrides`."""
    with services.database.reading() as session:
        return sensitivity_of(session, found(session, Job, project_id, job_id))


@router.get("/jobs/{job_id}/sensitivity.csv", response_class=Response, responses=_content("text/csv"))
def get_sensitivity_csv(services: Here, project_id: ProjectId, job_id: RowId) -> Response:
    """The same as CSV: layer, size, sparsity, and the accuracy (the loss, where there is none)."""
    with services.database.reading() as session:
        text = as_csv(sensitivity_of(session, found(session, Job, project_id, job_id)))
    headers = {"Content-Disposition": f'attachment; filename="{job_id}-sensitivity.csv"'}
    return Response(text, headers=headers, media_type="text/csv; charset=utf-8")


@router.get("/jobs/{job_id}/sensitivity.svg", response_class=Response, responses=_content("image/svg+xml"))
def get_sensitivity_svg(
    request: Request, services: Here, project_id: ProjectId, job_id: RowId, theme: ThemeName = "light"
) -> Response:
    """A row for each layer (the 40 most sensitive, where there are more), a column for each sparsity."""
    return _picture(request, services, project_id, job_id, "svg", theme)


@router.get("/jobs/{job_id}/sensitivity.png", response_class=Response, responses=_content("image/png"))
def get_sensitivity_png(
    request: Request, services: Here, project_id: ProjectId, job_id: RowId, theme: ThemeName = "light"
) -> Response:
    """The same, 1200 pixels wide."""
    return _picture(request, services, project_id, job_id, "png", theme)


def _picture(
    request: Request, services: Services, project_id: str, job_id: str, format: Format, theme: Theme
) -> Response:
    with services.database.reading() as session:
        job = found(session, Job, project_id, job_id)
        document = sensitivity_of(session, job)  # which never changes once it is there
        headers = {"ETag": f'"s-{format}-{theme}-{EDITION}"', "Cache-Control": "private, no-cache"}
        if is_current(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        title = session.get_one(Model, job.model_id).name
    headers |= PICTURE_HEADERS | {"Content-Disposition": f'inline; filename="{job_id}-sensitivity.{format}"'}
    from api.sensitivity_plot import drawn  # late, as in `plots`

    return Response(drawn(document, title, format, theme), headers=headers, media_type=MEDIA_TYPES[format])
