"""Large files go as resumable uploads: what had arrived before a connection was cut, or the service was restarted, is
not sent again, and content that the service already has is not sent at all."""

from __future__ import annotations

import base64
import hashlib
import logging
from contextlib import suppress
from typing import Any, BinaryIO

import httpx2

from espalier.errors import ApiError, EspalierError, Unreachable
from espalier.files import PIECE_BYTES, Progress, Upload, opened, pieces, size_of
from espalier.transport import Transport, api_path

log = logging.getLogger("espalier")

LARGE_BYTES = 16 << 20
"""From here on a file goes as a resumable upload; a smaller one is sent again as quickly."""
STALLS = 6
"""So many times in a row nothing more arrives before it is given up."""


async def send_file(
    transport: Transport, path: str, spec: dict[str, Any], file: Upload, progress: Progress | None
) -> Any:
    """What the service makes of it, at once or of a finished upload."""
    size_bytes = size_of(file)
    if size_bytes < LARGE_BYTES:
        with opened(file) as content:
            body = pieces(transport.wire, content, 0, size_bytes, progress)
            headers = {"Content-Length": str(size_bytes)}
            return await transport.send("POST", path, params=spec, content=body, headers=headers)
    upload_id = await upload(transport, file, progress)
    made = await transport.post(path, **spec, upload=upload_id)
    with suppress(EspalierError):  # else it goes by itself, a day later
        await transport.delete(api_path("uploads", upload_id))
    return made


async def upload(transport: Transport, file: Upload, progress: Progress | None) -> str:
    """The id of a complete upload.

    Raises:
        ApiError, Unreachable: the service refuses it, or stays away, or too little arrives.
    """
    with opened(file) as content:
        size_bytes = size_of(file)
        digest = await transport.wire.work(lambda: _sha256_field(content))
        path, offset, is_complete = await _begin(transport, digest, size_bytes)
        stalls = 0
        while not is_complete:
            try:
                await _append(transport, path, content, offset, size_bytes, progress)
                is_complete = True
            except (Unreachable, ApiError) as error:
                if isinstance(error, ApiError) and error.status != 409 and not error.retryable:
                    raise
                arrived, is_complete = await transport.patiently(lambda: _offset(transport, path))
                stalls = 0 if arrived > offset else stalls + 1
                if stalls == STALLS:
                    raise
                log.warning("%s; going on at byte %d of %d", error, arrived, size_bytes)
                await transport.wire.sleep(0.1 * 2**stalls)
                offset = arrived
        if progress:
            progress(size_bytes, size_bytes)
        return path.rpartition("/")[2]


async def _begin(transport: Transport, repr_digest: str, size_bytes: int) -> tuple[str, int, bool]:
    """(path, offset, complete). Tried again, it may leave an upload that nobody goes on with; it expires."""
    headers = {"Upload-Complete": "?0", "Upload-Length": str(size_bytes), "Repr-Digest": repr_digest}

    async def attempt() -> tuple[str, int, bool]:
        async with transport.stream("POST", "/v1/uploads", headers=headers) as response:
            upload_id = response.headers.get("Location", "").rpartition("/")[2]
            return api_path("uploads", upload_id), *_state(response)

    return await transport.patiently(attempt)


async def _offset(transport: Transport, path: str) -> tuple[int, bool]:
    async with transport.stream("HEAD", path) as response:
        return _state(response)


async def _append(
    transport: Transport, path: str, content: BinaryIO, offset: int, size_bytes: int, progress: Progress | None
) -> None:
    headers = {
        "Content-Type": "application/partial-upload",
        "Content-Length": str(size_bytes - offset),
        "Upload-Offset": str(offset),
        "Upload-Complete": "?1",
    }
    body = pieces(transport.wire, content, offset, size_bytes, progress)
    async with transport.stream("PATCH", path, headers=headers, content=body):
        pass


def _state(response: httpx2.Response) -> tuple[int, bool]:
    try:
        return int(response.headers["Upload-Offset"]), response.headers["Upload-Complete"] == "?1"
    except (KeyError, ValueError) as error:
        raise EspalierError(f"{response.url}: the answer says no Upload-Offset; is this the service?") from error


def _sha256_field(content: BinaryIO) -> str:
    """As RFC 9530 has it."""
    hash = hashlib.sha256()
    while piece := content.read(PIECE_BYTES):  # file_digest would copy what is in memory
        hash.update(piece)
    return f"sha-256=:{base64.b64encode(hash.digest()).decode()}:"
