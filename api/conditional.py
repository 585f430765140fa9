"""What a caller has already (ETags), and what it would rather have (Accept)."""

from __future__ import annotations

import re

from fastapi import Request

_WEIGHT = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")


def is_current(request: Request, etag: str) -> bool:
    """`If-None-Match` names `etag` (compared weakly, as RFC 9110 says for it) or is `*`."""
    given = request.headers.get("if-none-match")
    return given is not None and names(given, etag)


def names(given: str, etag: str) -> bool:
    """The same, of the header's value."""
    return any(tag.strip().removeprefix("W/") in ("*", etag) for tag in given.split(","))


def prefers(request: Request, wanted: str, default: str) -> bool:
    """`Accept` ranks the media type `wanted` above `default` (RFC 9110, 12.5.1); without the header nothing does."""
    weights = [_weight(part) for part in request.headers.get("accept", "").lower().split(",")]

    def quality(media_type: str) -> float:
        for covering in (media_type, media_type.partition("/")[0] + "/*", "*/*"):  # the most specific one counts
            for name, weight in weights:
                if name == covering:
                    return weight
        return 0.0

    return quality(wanted) > quality(default)


def _weight(part: str) -> tuple[str, float]:
    name, *parameters = (piece.strip() for piece in part.split(";"))
    given = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
    return name, float(given) if _WEIGHT.fullmatch(given) else 0.0
