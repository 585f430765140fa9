"""Artifacts: files that a round leaves, named by their digest, downloaded with ranges and strong ETags."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session
from starlette.responses import StreamingResponse

from api.auth import KeyedRoute, ProjectId
from api.documents import ArtifactDocument
from api.downloads import content_response
from api.job_documents import entry_name
from api.pages import Page, RowId, found
from api.problems import EVERYWHERE, Problem, documented
from api.services import Here
from store import listing
from store.blobs import located
from store.listing import OfferedArtifact
from store.tables import Job

router = APIRouter(tags=["artifacts"], route_class=KeyedRoute)

FILE = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}


@router.get("/jobs/{job_id}/artifacts", responses=documented(*EVERYWHERE, "not_found"))
def list_artifacts(services: Here, project_id: ProjectId, job_id: RowId) -> Page[ArtifactDocument]:
    """Of all rounds so far, in their order, of the kinds that the job offers. Always one page."""
    with services.database.reading() as session:
        job = found(session, Job, project_id, job_id)
        return Page(data=[artifact_document(offered) for offered in listing.offered_artifacts(session, job)])


@router.get("/artifacts/{artifact_id}", responses=documented(*EVERYWHERE, "not_found"))
def get_artifact(services: Here, project_id: ProjectId, artifact_id: RowId) -> ArtifactDocument:
    with services.database.reading() as session:
        return artifact_document(found_artifact(session, project_id, artifact_id))


@router.head("/artifacts/{artifact_id}/content", include_in_schema=False)
@router.get(
    "/artifacts/{artifact_id}/content",
    response_class=StreamingResponse,
    responses=documented(*EVERYWHERE, "not_found", "range_not_satisfiable")
    | {
        200: FILE | {"description": "the file"},
        206: FILE | {"description": "the `Range` of it that was asked for"},
        304: {"description": "`If-None-Match` names it"},
    },
)
def get_content(request: Request, services: Here, project_id: ProjectId, artifact_id: RowId) -> Response:
    """The file. `ETag` is its sha256: a download can be continued with `Range` and `If-Range`. 404 once its job has
    expired, or keeps fewer rounds."""
    with services.database.reading() as session:
        artifact = found_artifact(session, project_id, artifact_id).artifact
        blob = located(session, artifact.blob_digest)
    return content_response(request, services.blobs, blob, artifact.filename)


def found_artifact(session: Session, project_id: str, artifact_id: str) -> OfferedArtifact:
    offered = listing.offered_artifact(session, project_id, artifact_id)
    if offered is None:
        raise Problem(
            "not_found",
            f"there is no {artifact_id} in this project; artifacts go when their job expires (`expires_at`), "
            "is deleted, or has ended and keeps fewer rounds (`keep_rounds`)",
        )
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
        verified=artifact.verified,
        created_at=artifact.created_at,
    )
