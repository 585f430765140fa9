"""Short-lived links to artifacts, for whoever should have a file and no key."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Body, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import StreamingResponse

from api.auth import KeyedRoute, ProjectId
from api.downloads import content_response
from api.idempotency import ShownOnce
from api.links import artifact_of, make_token
from api.pages import RowId
from api.problems import EVERYWHERE, Problem, documented
from api.routes.artifacts import FILE, found_artifact
from api.services import Here
from store import listing
from store.blobs import located

router = APIRouter(tags=["artifacts"], route_class=KeyedRoute)
public = APIRouter(tags=["artifacts"])
"""What the link itself opens: the signature is all it needs."""


class LinkRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    expires_in_seconds: int = Field(300, ge=1, le=3600)


class LinkDocument(BaseModel):
    object: Literal["link"] = "link"
    artifact: str
    url: ShownOnce = Field(description="whoever has it has the file: GET and HEAD, ranges too, without a key")
    expires_at: datetime


@router.post(
    "/artifacts/{artifact_id}/links",
    responses=documented(*EVERYWHERE, "not_found", "invalid_json", "too_large", "unsupported_media_type"),
)
def create_link(
    request: Request,
    response: Response,
    services: Here,
    project_id: ProjectId,
    artifact_id: RowId,
    given: Annotated[LinkRequest | None, Body()] = None,
) -> LinkDocument:
    """A URL that opens this artifact's content alone, without a key, and soon dies. Nothing is stored; it cannot be
    revoked, but dies with the artifact, too."""
    with services.database.reading() as session:
        found_artifact(session, project_id, artifact_id)
    expires_at = time.time() + (given or LinkRequest()).expires_in_seconds
    token = make_token(services.settings, artifact_id, expires_at)
    response.headers["Cache-Control"] = "no-store"
    return LinkDocument(
        artifact=artifact_id,
        # In the query, which no log of ours holds.
        url=str(request.url_for("get_linked_content").include_query_params(token=token)),
        expires_at=datetime.fromtimestamp(expires_at, UTC),
    )


@public.head("/links", include_in_schema=False)
@public.get(
    "/links",
    response_class=StreamingResponse,
    responses=documented(
        "invalid_link",
        "not_found",
        "link_expired",
        "range_not_satisfiable",
        "invalid_request",
        "internal_error",
        "unavailable",
    )
    | {
        200: FILE | {"description": "the file"},
        206: FILE | {"description": "the `Range` of it that was asked for"},
        304: {"description": "`If-None-Match` names it"},
    },
)
def get_linked_content(
    request: Request, services: Here, token: Annotated[str, Query(description="as the link has it")]
) -> Response:
    """The file that a link opens, as `/v1/artifacts/{artifact_id}/content` answers. Needs no key."""
    artifact_id = artifact_of(services.settings, token)
    with services.database.reading() as session:
        offered = listing.offered_artifact(session, None, artifact_id)
        if offered is None:
            raise Problem(
                "not_found", f"{artifact_id} is gone: its job has expired, was deleted, or keeps fewer rounds"
            )
        blob = located(session, offered.artifact.blob_digest)
    response = content_response(request, services.blobs, blob, offered.artifact.filename)
    response.headers["Cache-Control"] = "private, no-store"  # a copy would outlive the link
    return response
