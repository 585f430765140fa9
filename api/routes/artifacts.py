"""Artifacts: files that a round leaves, named by their digest, downloaded with ranges and strong ETags."""

from __future__ import annotations

import base64

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session
from starlette.responses import FileResponse, MalformedRangeHeader, RangeNotSatisfiable
from starlette.types import Receive, Scope, Send

from api.auth import KeyedRoute, ProjectId
from api.conditional import is_current
from api.documents import ArtifactDocument
from api.job_documents import entry_name
from api.pages import Page, RowId, found, missing
from api.problems import EVERYWHERE, Problem, documented
from api.services import Here
from store import listing
from store.listing import OfferedArtifact
from store.tables import Job

router = APIRouter(tags=["artifacts"], route_class=KeyedRoute)

_FILE = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}


@router.get("/jobs/{job_id}/artifacts", responses=documented(*EVERYWHERE, "not_found"))
def list_artifacts(services: Here, project_id: ProjectId, job_id: RowId) -> Page[ArtifactDocument]:
    """Of all rounds so far, in their order, of the kinds that the job offers. Always one page."""
    with services.database.reading() as session:
        job = found(session, Job, project_id, job_id)
        return Page(data=[artifact_document(offered) for offered in listing.offered_artifacts(session, job)])


@router.get("/artifacts/{artifact_id}", responses=documented(*EVERYWHERE, "not_found"))
def get_artifact(services: Here, project_id: ProjectId, artifact_id: RowId) -> ArtifactDocument:
    with services.database.reading() as session:
        return artifact_document(_found(session, project_id, artifact_id))


@router.head("/artifacts/{artifact_id}/content", include_in_schema=False)
@router.get(
    "/artifacts/{artifact_id}/content",
    response_class=FileResponse,
    responses=documented(*EVERYWHERE, "not_found", "range_not_satisfiable")
    | {
        200: _FILE | {"description": "the file"},
        206: _FILE | {"description": "the `Range` of it that was asked for"},
        304: {"description": "`If-None-Match` names it"},
    },
)
def get_content(request: Request, services: Here, project_id: ProjectId, artifact_id: RowId) -> Response:
    """The file. `ETag` is its sha256: a download can be continued with `Range` and `If-Range`."""
    with services.database.reading() as session:
        artifact = _found(session, project_id, artifact_id).artifact
    digest = artifact.blob_digest
    headers = {
        "ETag": f'"sha256:{digest}"',
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(digest)).decode()}:",
        "Cache-Control": "private, immutable, max-age=31536000",
    }
    if is_current(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return _Content(
        services.blobs.path(digest),
        headers=headers | {"X-Content-Type-Options": "nosniff"},
        media_type="application/octet-stream",
        filename=artifact.filename,
    )


class _Content(FileResponse):
    """Starlette's, with errors as problems: it answers both kinds of bad range itself, in plain text."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":  # RFC 9110, 14.2: a range is for GET alone
            scope = {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != b"range"]}
        await super().__call__(scope, receive, send)

    @classmethod
    def _parse_range_header(cls, http_range: str, file_size: int) -> list[tuple[int, int]]:
        try:
            return super()._parse_range_header(http_range, file_size)
        except MalformedRangeHeader:
            return []  # RFC 9110: as if it were not there
        except RangeNotSatisfiable:
            raise Problem(
                "range_not_satisfiable",
                f"the content has {file_size} bytes",
                param="header:range",
                headers={"Content-Range": f"bytes */{file_size}"},
            ) from None


def _found(session: Session, project_id: str, artifact_id: str) -> OfferedArtifact:
    offered = listing.offered_artifact(session, project_id, artifact_id)
    if offered is None:
        raise missing(artifact_id)
    return offered


def artifact_document(offered: OfferedArtifact) -> ArtifactDocument:
    artifact = offered.artifact
    return ArtifactDocument(
        id=artifact.id,
        job=artifact.job_id,
        round=entry_name(offered.round_number),
        kind=artifact.kind,
        format=artifact.format,
        filename=artifact.filename,
        size_bytes=artifact.size_bytes,
        sha256=artifact.blob_digest,
        created_at=artifact.created_at,
    )
