"""What requests and answers of resumable uploads say in their heads.

Resumable Uploads for HTTP (draft-ietf-httpbis-resumable-upload) and Digest Fields (RFC 9530), sha-256 alone. As both
ask, a field whose value is no such value counts as one that is not there, and other algorithms are passed over.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Header

from api.problems import Problem
from store.settings import Settings

PARTIAL = "application/partial-upload"
"""The media type of content that is appended."""

_INTEGER = re.compile(r"[ \t]*([0-9]{1,15})[ \t]*(?:;.*)?")
_BOOLEAN = re.compile(r"[ \t]*\?([01])[ \t]*(?:;.*)?")
_SHA256 = re.compile(r"(?:^|,)[ \t]*sha-256=([^,]*)")

_BYTES: dict[str, Any] = {"pattern": r"^[0-9]{1,15}$"}
_DIGEST: dict[str, Any] = {"pattern": r"^sha-256=:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=:$"}
"""In the document: what is sent with a purpose. What else a field may hold, RFC 9651 says."""


@dataclass(frozen=True)
class Said:
    complete: bool | None
    offset_bytes: int | None
    length_bytes: int | None
    content_digest: str | None
    """sha256 in hex of this request's content."""
    repr_digest: str | None
    """sha256 in hex of the whole."""

    def must_say_complete(self) -> bool:
        if self.complete is None:
            raise Problem(
                "invalid_request",
                "say whether the content ends with this request: Upload-Complete: ?1, or ?0 where more follows",
                param="header:upload-complete",
            )
        return self.complete

    def must_say_offset(self) -> int:
        if self.offset_bytes is None:
            raise Problem(
                "invalid_request",
                "say at which byte this content begins, as HEAD tells it: Upload-Offset: 0",
                param="header:upload-offset",
            )
        return self.offset_bytes


def _said(
    upload_complete: Annotated[
        str | None,
        Header(
            description="`?1`: the content ends with this request; `?0`: more follows",
            json_schema_extra={"pattern": r"^\?[01]$"},
        ),
    ] = None,
    upload_offset: Annotated[
        str | None, Header(description="the byte at which this content begins", json_schema_extra=_BYTES)
    ] = None,
    upload_length: Annotated[str | None, Header(description="bytes of the whole", json_schema_extra=_BYTES)] = None,
    content_digest: Annotated[
        str | None,
        Header(
            description="RFC 9530, `sha-256=:...:` of this request's content: all of it counts, or none",
            json_schema_extra=_DIGEST,
        ),
    ] = None,
    repr_digest: Annotated[
        str | None, Header(description="RFC 9530, `sha-256=:...:` of the whole", json_schema_extra=_DIGEST)
    ] = None,
) -> Said:
    complete = _BOOLEAN.fullmatch(upload_complete or "")
    return Said(
        complete=complete and complete[1] == "1",
        offset_bytes=_integer(upload_offset),
        length_bytes=_integer(upload_length),
        content_digest=_digest("content-digest", content_digest),
        repr_digest=_digest("repr-digest", repr_digest),
    )


SaidHere = Annotated[Said, Depends(_said)]
"""A parameter of a route."""


def _integer(value: str | None) -> int | None:
    found = _INTEGER.fullmatch(value or "")
    return int(found[1]) if found else None


def _digest(name: str, value: str | None) -> str | None:
    """What cannot be a digest is refused: a check that was asked for must not be left out without a word."""
    found = _SHA256.search(value or "")
    if found is None:
        return None
    member = found[1].partition(";")[0].strip()
    try:
        digest = base64.b64decode(member[1:-1], validate=True)
    except binascii.Error:
        digest = b""
    if len(digest) != 32 or member[:1] + member[-1:] != "::":
        example = base64.b64encode(bytes(32)).decode()
        raise Problem(
            "invalid_request",
            f"a sha-256 is 32 bytes in base64 between colons: sha-256=:{example}:",
            param=f"header:{name}",
        )
    return digest.hex()


def limits(settings: Settings, left_seconds: float | None = None) -> dict[str, str]:
    limit = f"max-size={settings.max_upload_bytes}"
    return {"Upload-Limit": limit if left_seconds is None else f"{limit}, max-age={max(0, int(left_seconds))}"}


def state(offset_bytes: int, complete: bool, length_bytes: int | None = None) -> dict[str, str]:
    headers = {"Upload-Offset": str(offset_bytes), "Upload-Complete": f"?{complete:d}", "Cache-Control": "no-store"}
    return headers if length_bytes is None else {**headers, "Upload-Length": str(length_bytes)}


def draft_type(name: str) -> dict[str, Any]:
    """The draft's own name of a problem."""
    return {"type": f"https://iana.org/assignments/http-problem-types#{name}"}


def mismatching_offset(expected: int, provided: int) -> Problem:
    return Problem(
        "mismatching_upload_offset",
        f"the upload waits for byte {expected}, and this content begins at {provided}; go on from {expected}",
        param="header:upload-offset",
        headers={"Upload-Offset": str(expected), "Upload-Complete": "?0"},
        **(draft_type("mismatching-upload-offset") | {"expected-offset": expected, "provided-offset": provided}),
    )


def inconsistent_length(detail: str) -> Problem:
    return Problem(
        "inconsistent_upload_length", detail, param="header:upload-length", **draft_type("inconsistent-upload-length")
    )


def too_large(settings: Settings, most_bytes: int) -> Problem:
    declared = "the upload was said to have" if most_bytes < settings.max_upload_bytes else "the service takes"
    return Problem("too_large", f"{declared} at most {most_bytes} bytes", param="", headers=limits(settings))
