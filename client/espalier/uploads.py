"""Large files go as resumable uploads: what had arrived before a connection was cut, or the service was restarted, is
not sent again, and content that the service already has is not sent at all."""

from __future__ import annotations

import base64
import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import httpx

from espalier.errors import ApiError, EspalierError, Unreachable
from espalier.files import Upload, opened
from espalier.transport import Transport

log = logging.getLogger("espalier")

LARGE_BYTES = 16 << 20
"""From here on a file goes as a resumable upload; a smaller one is sent again as quickly."""
PIECE_BYTES = 1 << 18
STALLS = 6
"""So many times in a row nothing more arrives before it is given up."""

Progress = Callable[[int, int], None]
"""progress(bytes sent, bytes of the whole): after every piece, and where an upload goes on after a cut, from there."""


def size_of(file: Upload) -> int:
    return len(file) if isinstance(file, bytes) else Path(file).stat().st_size


def upload(transport: Transport, file: Upload, progress: Progress | None) -> str:
    """The id of a complete upload.

    Raises:
        ApiError, Unreachable: the service refuses it, or stays away, or too little arrives.
    """
    with opened(file) as content:
        size_bytes = size_of(file)
        path, offset, is_complete = _begin(transport, _sha256_field(content), size_bytes)
        stalls = 0
        while not is_complete:
            try:
                return _append(transport, path, content, offset, size_bytes, progress)
            except (Unreachable, ApiError) as error:
                if isinstance(error, ApiError) and error.status != 409 and not error.retryable:
                    raise
                arrived, is_complete = transport.patiently(lambda: _offset(transport, path))
                stalls = 0 if arrived > offset else stalls + 1
                if stalls == STALLS:
                    raise
                log.warning("%s; going on at byte %d of %d", error, arrived, size_bytes)
                time.sleep(0.1 * 2**stalls)
                offset = arrived
        if progress:
            progress(size_bytes, size_bytes)
        return path.rpartition("/")[2]


def _begin(transport: Transport, repr_digest: str, size_bytes: int) -> tuple[str, int, bool]:
    """(path, offset, complete). Tried again, it may leave an upload that nobody goes on with; it expires."""
    headers = {"Upload-Complete": "?0", "Upload-Length": str(size_bytes), "Repr-Digest": repr_digest}

    def attempt() -> tuple[str, int, bool]:
        with transport.stream("POST", "/v1/uploads", headers=headers) as response:
            upload_id = response.headers.get("Location", "").rpartition("/")[2]
            return f"/v1/uploads/{quote(upload_id, safe='')}", *_state(response)

    return transport.patiently(attempt)


def _offset(transport: Transport, path: str) -> tuple[int, bool]:
    with transport.stream("HEAD", path) as response:
        return _state(response)


def _append(
    transport: Transport, path: str, content: BinaryIO, offset: int, size_bytes: int, progress: Progress | None
) -> str:
    headers = {
        "Content-Type": "application/partial-upload",
        "Content-Length": str(size_bytes - offset),
        "Upload-Offset": str(offset),
        "Upload-Complete": "?1",
    }
    with transport.stream("PATCH", path, headers=headers, content=_pieces(content, offset, size_bytes, progress)):
        return path.rpartition("/")[2]


def _pieces(content: BinaryIO, offset: int, size_bytes: int, progress: Progress | None) -> Iterator[bytes]:
    content.seek(offset)
    while offset < size_bytes:
        piece = content.read(min(PIECE_BYTES, size_bytes - offset))
        if not piece:
            raise EspalierError(f"the file has {offset} bytes now, and had {size_bytes} when its upload began")
        offset += len(piece)
        yield piece
        if progress:
            progress(offset, size_bytes)


def _state(response: httpx.Response) -> tuple[int, bool]:
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
