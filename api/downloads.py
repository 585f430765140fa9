"""Files out: a blob, or one range of it, at constant memory and the same from every kind of store.

The blocking reads happen in threads. The first piece is read before the head is sent, so that a store that does not
answer is an error with a status, not a body that breaks off.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from urllib.parse import quote

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from api.conditional import is_current
from api.problems import Problem
from store.blobs import BlobStore, Damaged, StoredBlob

_RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.IGNORECASE)
_MEDIA_TYPE = "application/octet-stream"


def content_response(request: Request, blobs: BlobStore, blob: StoredBlob, filename: str) -> Response:
    """200, 206, 304 or 416, as RFC 9110 has it; the strong `ETag` is the content's sha256.

    One range is served; of several, and of what is no range of bytes, the whole is (14.2: a server may ignore them).
    """
    headers = {
        "ETag": f'"sha256:{blob.digest}"',
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(blob.digest)).decode()}:",
        "Cache-Control": "private, immutable, max-age=31536000",
        "Accept-Ranges": "bytes",
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": _attachment(filename),
    }
    if is_current(request, headers["ETag"]):
        kept = ("ETag", "Repr-Digest", "Cache-Control")
        return Response(status_code=304, headers={name: headers[name] for name in kept})
    if request.method == "HEAD":  # 14.2: a range is for GET alone
        return Response(headers=headers | {"Content-Length": str(blob.size_bytes)}, media_type=_MEDIA_TYPE)
    asked = _asked_range(request, headers["ETag"], blob.size_bytes)
    start, stop = asked or (0, blob.size_bytes)
    headers["Content-Length"] = str(stop - start)
    if asked:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{blob.size_bytes}"
    if (size_bytes := blobs.size_bytes(blob)) != blob.size_bytes:
        raise Damaged(f"blob {blob.digest} has {size_bytes} bytes, not {blob.size_bytes}")
    pieces = _begun(blobs.read(blob, start, stop))
    return StreamingResponse(pieces, 206 if asked else 200, headers, _MEDIA_TYPE)


def _begun(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same pieces, the first of them in hand."""
    first = next(pieces, None)

    def all_of_them() -> Iterator[bytes]:
        if first is not None:
            yield first
            yield from pieces

    return all_of_them()


def _asked_range(request: Request, etag: str, size_bytes: int) -> tuple[int, int] | None:
    """(first byte, one behind the last); None: the whole. Raises Problem for a range behind the end."""
    given = _RANGE.fullmatch(request.headers.get("range", ""))
    if given is None or request.headers.get("if-range", etag) != etag:  # 13.1.5: compared strongly; we have no dates
        return None
    first, last = given.groups()
    if first:
        start, stop = int(first), min(int(last) + 1, size_bytes) if last else size_bytes
        if last and int(last) < start:
            return None  # 14.1.1: invalid, and so ignored
    elif last:
        start, stop = max(size_bytes - int(last), 0), size_bytes
    else:
        return None
    if start >= stop:
        raise Problem(
            "range_not_satisfiable",
            f"the content has {size_bytes} bytes",
            param="header:range",
            headers={"Content-Range": f"bytes */{size_bytes}"},
        )
    return start, stop


def _attachment(filename: str) -> str:
    """RFC 6266: quoted where it can be, percent-encoded where it must be."""
    quoted = quote(filename)
    return f'attachment; filename="{filename}"' if quoted == filename else f"attachment; filename*=utf-8''{quoted}"
