"""Uploads that go on where they were cut off: Resumable Uploads for HTTP (draft-ietf-httpbis-resumable-upload).

A model or dataset is made of a complete one: `POST /v1/models?upload=upl_...`.
"""

from __future__ import annotations

import time
from contextlib import suppress

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from api import upload_headers
from api.auth import KeyedRoute, ProjectId
from api.bodies import declared_bytes
from api.documents import UploadDocument
from api.pages import RowId, missing
from api.problems import EVERYWHERE, Problem, documented
from api.resumable import arrive, drop, superseded
from api.services import Here, Services
from api.upload_headers import PARTIAL, Said, SaidHere
from api.uploads import refuse_encoded, refuse_without_room
from store import uploads
from store.tables import Upload
from store.uploads import Superseded, TooMany, Turn

router = APIRouter(tags=["uploads"], route_class=KeyedRoute)

_FILE = {"schema": {"type": "string", "format": "binary"}}
_ARRIVING = (
    *EVERYWHERE,
    "inconsistent_upload_length",
    "superseded",
    "too_large",
    "unsupported_media_type",
    "digest_mismatch",
    "too_many_uploads",
    "insufficient_storage",
)


@router.options("/uploads", include_in_schema=False)
def tell_limits(services: Here) -> Response:
    return Response(
        status_code=204,
        headers={"Allow": "POST, OPTIONS", "Accept-Patch": PARTIAL} | upload_headers.limits(services.settings),
    )


@router.post(
    "/uploads",
    status_code=201,
    openapi_extra={"requestBody": {"content": {"application/octet-stream": _FILE}}},
    responses=documented(*_ARRIVING),
)
async def create_upload(
    request: Request, response: Response, services: Here, project_id: ProjectId, said: SaidHere
) -> UploadDocument:
    """Begin an upload with all, part or nothing of the content; `Location` is where it goes on.

    With the `Repr-Digest` and `Upload-Length` of content that the project already has, it is complete at once
    (`Upload-Complete: ?1` in the answer) and nothing need be sent.
    """
    complete = said.must_say_complete()
    refuse_encoded(request)
    content_bytes = declared_bytes(request)
    length_bytes = _length(said, content_bytes, 0, None)
    _refuse_too_large(services, content_bytes or 0, length_bytes)
    await run_in_threadpool(refuse_without_room, services, max(length_bytes or 0, content_bytes or 0))
    upload, turn = await run_in_threadpool(_create, services, project_id, said, length_bytes)
    if turn is not None and (complete or content_bytes != 0):
        try:
            await arrive(request, services, turn, said, length_bytes)
        except BaseException:  # nobody was told its id: nobody could go on with it
            await run_in_threadpool(drop, services, upload.id)
            raise
        upload = await run_in_threadpool(_found_now, services, project_id, upload.id)
    response.headers.update({"Location": f"/v1/uploads/{upload.id}", **_head(services, upload)})
    return _document(upload)


def _create(services: Services, project_id: str, said: Said, length_bytes: int | None) -> tuple[Upload, Turn | None]:
    """No turn: it is complete."""
    settings = services.settings
    expiry_seconds = settings.upload_expiry_hours * 3600
    with services.database.transaction() as session:
        if said.repr_digest is not None and length_bytes is not None:
            known = uploads.create_known(
                session, project_id, digest=said.repr_digest, length_bytes=length_bytes, expiry_seconds=expiry_seconds
            )
            if known is not None:
                return known, None
        try:
            upload = uploads.create(
                session,
                project_id,
                length_bytes=length_bytes,
                expected_digest=said.repr_digest,
                max_open=settings.max_open_uploads,
                expiry_seconds=expiry_seconds,
            )
        except TooMany:
            raise Problem(
                "too_many_uploads",
                f"{settings.max_open_uploads} uploads of this project are not complete; end one, delete one, or wait "
                f"{settings.upload_expiry_hours:g} hours until an abandoned one goes",
                headers={"Retry-After": "60"},
            ) from None
        return upload, uploads.take_turn(session, upload.id, expiry_seconds)


@router.patch(
    "/uploads/{upload_id}",
    status_code=200,
    response_model=UploadDocument,
    openapi_extra={"requestBody": {"required": True, "content": {PARTIAL: _FILE}}},
    responses=documented(*_ARRIVING, "not_found", "mismatching_upload_offset", "completed_upload")
    | {204: {"description": "It counts, up to `Upload-Offset`, and more may follow"}},
)
async def append(request: Request, services: Here, project_id: ProjectId, upload_id: RowId, said: SaidHere) -> Response:
    """Go on at `Upload-Offset`; `Upload-Complete: ?1` says that this is the end. Of two requests at a time the later
    one counts, so ask with HEAD where a connection was cut: what had arrived is there."""
    upload = await run_in_threadpool(_found_now, services, project_id, upload_id)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != PARTIAL:
        raise Problem(
            "unsupported_media_type",
            f"send Content-Type: {PARTIAL}",
            param="header:content-type",
            headers={"Accept-Patch": PARTIAL},
        )
    refuse_encoded(request)
    complete, offset = said.must_say_complete(), said.must_say_offset()
    content_bytes = declared_bytes(request)
    if upload.blob_digest is not None:
        raise _completed(upload, content_bytes)
    await services.underway.let_go(upload_id)
    try:
        turn = await run_in_threadpool(_take_turn, services, upload_id)
    except Superseded:
        raise superseded(upload_id) from None
    if offset != turn.offset_bytes:
        raise upload_headers.mismatching_offset(turn.offset_bytes, offset)
    length_bytes = _length(said, content_bytes, offset, turn.length_bytes)
    _refuse_too_large(services, offset + (content_bytes or 0), length_bytes)
    await run_in_threadpool(refuse_without_room, services, content_bytes or 0)
    if length_bytes is not None and turn.length_bytes is None:
        await run_in_threadpool(_say_length, services, turn, length_bytes)
    offset = await arrive(request, services, turn, said, length_bytes)
    if not complete:
        return Response(status_code=204, headers=upload_headers.state(offset, complete=False))
    upload = await run_in_threadpool(_found_now, services, project_id, upload_id)
    return Response(_document(upload).model_dump_json(), headers=_head(services, upload), media_type="application/json")


@router.head(
    "/uploads/{upload_id}",
    status_code=204,
    responses=documented(*EVERYWHERE, "not_found"),
)
async def tell_offset(services: Here, project_id: ProjectId, upload_id: RowId) -> Response:
    """`Upload-Offset`, to go on from. A request that still brings content to it counts no more from here on: look on
    with GET."""
    await run_in_threadpool(_found_now, services, project_id, upload_id)
    await services.underway.let_go(upload_id)
    with suppress(Superseded):  # it is complete, or was deleted this very moment
        await run_in_threadpool(_take_turn, services, upload_id)
    upload = await run_in_threadpool(_found_now, services, project_id, upload_id)
    return Response(status_code=204, headers=_head(services, upload))


@router.get("/uploads/{upload_id}", responses=documented(*EVERYWHERE, "not_found"))
def get_upload(response: Response, services: Here, project_id: ProjectId, upload_id: RowId) -> UploadDocument:
    upload = _found_now(services, project_id, upload_id)
    response.headers.update(_head(services, upload))
    return _document(upload)


@router.delete("/uploads/{upload_id}", status_code=204, responses=documented(*EVERYWHERE, "not_found"))
def delete_upload(services: Here, project_id: ProjectId, upload_id: RowId) -> None:
    """With what has arrived. What was made of it stays."""
    with services.database.transaction() as session:
        _found(session, project_id, upload_id)
        uploads.drop(session, upload_id)


def _length(said: Said, content_bytes: int | None, offset: int, known_bytes: int | None) -> int | None:
    """Of the whole, by all that say it."""
    to_its_end = offset + content_bytes if said.complete and content_bytes is not None else None
    lengths = {length for length in (known_bytes, said.length_bytes, to_its_end) if length is not None}
    if len(lengths) > 1:
        raise upload_headers.inconsistent_length(
            f"the length of the whole is said to be {' and '.join(map(str, sorted(lengths)))}: "
            "Upload-Length, now and before, and the end of the last request's content must agree"
        )
    return lengths.pop() if lengths else None


def _refuse_too_large(services: Services, stop_bytes: int, length_bytes: int | None) -> None:
    """Before a byte is read."""
    most_bytes = services.settings.max_upload_bytes
    if max(stop_bytes, length_bytes or 0) > most_bytes:
        raise upload_headers.too_large(services.settings, most_bytes)
    if length_bytes is not None and stop_bytes > length_bytes:
        raise upload_headers.too_large(services.settings, length_bytes)


def _completed(upload: Upload, content_bytes: int | None) -> Problem:
    if content_bytes != 0:
        return upload_headers.inconsistent_length(f"{upload.id} is complete, with {upload.offset_bytes} bytes")
    return Problem(
        "completed_upload", f"{upload.id} is complete already", **upload_headers.draft_type("completed-upload")
    )


def _take_turn(services: Services, upload_id: str) -> Turn:
    with services.database.transaction() as session:
        try:
            return uploads.take_turn(session, upload_id, services.settings.upload_expiry_hours * 3600)
        except TooMany:
            raise Problem(
                "too_large",
                f"the upload came in {uploads.MAX_PARTS} parts; begin another and send larger ones",
                headers=upload_headers.limits(services.settings),
            ) from None


def _say_length(services: Services, turn: Turn, length_bytes: int) -> None:
    with services.database.transaction() as session:
        uploads.say_length(session, turn, length_bytes)


def _found_now(services: Services, project_id: str, upload_id: str) -> Upload:
    with services.database.reading() as session:
        return _found(session, project_id, upload_id)


def _found(session: Session, project_id: str, upload_id: str) -> Upload:
    upload = uploads.one(session, project_id, upload_id)
    if upload is None:
        raise missing(upload_id)
    return upload


def _head(services: Services, upload: Upload) -> dict[str, str]:
    state = upload_headers.state(upload.offset_bytes, upload.blob_digest is not None, upload.length_bytes)
    return state | upload_headers.limits(services.settings, upload.expires_at - time.time())


def _document(row: Upload) -> UploadDocument:
    return UploadDocument(
        id=row.id,
        complete=row.blob_digest is not None,
        offset_bytes=row.offset_bytes,
        length_bytes=row.length_bytes,
        sha256=row.blob_digest,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )
