"""ETags: has the caller the current one already?"""

from __future__ import annotations

from fastapi import Request


def is_current(request: Request, etag: str) -> bool:
    """`If-None-Match` names `etag` (compared weakly, as RFC 9110 says for it) or is `*`."""
    given = request.headers.get("if-none-match")
    if given is None:
        return False
    return any(tag.strip().removeprefix("W/") in ("*", etag) for tag in given.split(","))
