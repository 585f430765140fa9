"""Files in: the raw body, streamed to disk at constant memory and hashed on the way, then kept by the blob store.

Pieces of one MiB go to a thread, which hashes and writes them: a thread hop (0.1 ms) for each of the server's 64 KiB
chunks would cost as much as the work itself, and writing on the event loop would stop every other request while the
disk is slow.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from fastapi import Request
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from api.bodies import declared_bytes
from api.problems import Problem, no_room
from api.services import Services
from store import quotas, uploads
from store.blobs import CHUNK_BYTES, StoredBlob, TooLarge, located
from store.room import is_full

Look = Callable[[bytes, int | None], None]
"""look(first bytes, size of the whole if it is known): raises Problem where the file cannot be taken."""

_BINARY = {"schema": {"type": "string", "format": "binary"}}
BODY = {"requestBody": {"content": {"application/octet-stream": _BINARY}}}
"""For the OpenAPI document: the file itself is the body."""


async def receive(request: Request, services: Services, project_id: str, look: Look) -> StoredBlob:
    """The body as a blob, whole; where it is refused or breaks off, nothing is left of it."""
    limit_bytes = services.settings.max_upload_bytes
    size_bytes = declared_bytes(request)
    refuse_encoded(request)
    if size_bytes is not None and size_bytes > limit_bytes:
        raise _too_large(limit_bytes)
    await run_in_threadpool(refuse_without_room, services, size_bytes or 0)
    if size_bytes:
        await run_in_threadpool(_refuse_beyond_quota, services, project_id, size_bytes)
    with services.blobs.writer(limit_bytes) as writer:
        try:
            async for piece in _pieces(request.stream()):
                if writer.size_bytes == 0:
                    look(piece, size_bytes)
                await run_in_threadpool(writer.write, piece)
        except TooLarge:
            raise _too_large(limit_bytes) from None
        if writer.size_bytes == 0:
            raise Problem("invalid_content", "the body is empty; send the file itself as the body", param="")
        return await run_in_threadpool(writer.finish)


@contextmanager
def referring(services: Services, blob: StoredBlob | None) -> Iterator[None]:
    """Around the transaction that refers to an upload. Where the database has no room for its row, the file would be
    the next to take room for nothing (but for a file that a row names already)."""
    try:
        yield
    except DBAPIError as error:
        if blob is not None and blob.refer_by is not None and is_full(error):
            services.blobs.remove(blob.name)
        raise


async def received_or_uploaded(
    request: Request, services: Services, project_id: str, upload_id: str | None, look: Look
) -> StoredBlob:
    """The body, or a resumable upload in its place."""
    if upload_id is None:
        return await receive(request, services, project_id, look)
    await refuse_body(request, "the content is the upload's: send no body with upload=")
    return await run_in_threadpool(_uploaded, services, project_id, upload_id, look)


def _uploaded(services: Services, project_id: str, upload_id: str, look: Look) -> StoredBlob:
    with services.database.reading() as session:
        blob = held(session, project_id, upload_id)
    if blob.size_bytes == 0:
        raise Problem("invalid_content", "the upload is empty", param="query:upload")
    look(next(services.blobs.read(blob, 0, min(blob.size_bytes, CHUNK_BYTES))), blob.size_bytes)
    return blob


def held(session: Session, project_id: str, upload_id: str, hold: bool = False) -> StoredBlob:
    """The content of a complete upload. `hold`: it stays until the transaction ends, so that it can be referred to."""
    upload = uploads.one(session, project_id, upload_id, hold)
    if upload is None:
        detail = f"there is no {upload_id} in this project; uploads go a day after their last byte"
        raise Problem("not_found", detail, param="query:upload", status=422)
    if upload.blob_digest is None:
        detail = f"{upload_id} has {upload.offset_bytes} bytes and is not complete; go on with PATCH"
        raise Problem("incomplete_upload", detail, param="query:upload")
    return located(session, upload.blob_digest)


async def refuse_body(request: Request, why: str) -> None:
    """For what is made from parameters alone."""
    async for chunk in request.stream():
        if chunk:
            raise Problem("invalid_request", why, param="")


async def _pieces(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The stream in pieces of CHUNK_BYTES or a little more, the last one perhaps less; none is empty."""
    gathered: list[bytes] = []
    num_bytes = 0
    async for chunk in chunks:
        gathered.append(chunk)
        num_bytes += len(chunk)
        if num_bytes >= CHUNK_BYTES:
            yield b"".join(gathered)
            gathered, num_bytes = [], 0
    if num_bytes:
        yield b"".join(gathered)


def refuse_without_room(services: Services, size_bytes: int) -> None:
    """Before a byte of it is read."""
    if services.blobs.free_bytes() - size_bytes < services.settings.min_free_bytes:
        raise no_room()


def _refuse_beyond_quota(services: Services, project_id: str, size_bytes: int) -> None:
    with services.database.reading() as session:
        quotas.check_coming(session, project_id, services.settings, size_bytes)


def refuse_encoded(request: Request) -> None:
    """A form wraps the file in boundaries; a compressed body is another file than the one it stands for."""
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise Problem(
            "unsupported_media_type",
            "send the file itself as the body, not as a form (curl: --data-binary @FILE or -T FILE, not -F)",
            param="header:content-type",
        )
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Problem("unsupported_media_type", "send the file uncompressed", param="header:content-encoding")


def _too_large(limit_bytes: int) -> Problem:
    return Problem("too_large", f"the service takes files of up to {limit_bytes} bytes", param="")
