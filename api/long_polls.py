"""`Prefer: wait=30`: an answer that is held back until there is another one than the caller has."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from fastapi import Request, Response

from api.conditional import is_current
from api.waiting import Waiting

MAX_WAIT_SECONDS = 60
_WAIT = re.compile(r"\s*wait\s*=\s*\"?(\d{1,9})\"?\s*", re.IGNORECASE)


class Seen(Protocol):
    @property
    def etag(self) -> str: ...
    @property
    def done(self) -> bool: ...


S = TypeVar("S", bound=Seen)


async def answered(
    request: Request,
    waiting: Waiting,
    project_id: str,
    row_id: str,
    prefer: str | None,
    read: Callable[[], Awaitable[S]],
    answer: Callable[[Request, S], Response],
) -> Response:
    """At once, or where the caller waits, names what it has, and what it watches is not done: when that has changed."""
    wait_seconds = _asked_to_wait(prefer)
    if wait_seconds is None or "if-none-match" not in request.headers:
        return answer(request, await read())
    until = time.monotonic() + wait_seconds
    with waiting.watching(row_id) as watch:
        if watch is None:
            return answer(request, await read())
        changed = watch.changed
        seen = await read()
        while not seen.done and is_current(request, seen.etag) and not waiting.is_over:
            if not await is_set(changed, request, until - time.monotonic()):
                break
            changed = watch.changed
            seen = await watch.once(project_id, read)
    response = answer(request, seen)
    response.headers["Preference-Applied"] = f"wait={wait_seconds}"
    return response


async def is_set(changed: asyncio.Event, request: Request, seconds: float) -> bool:
    """Before so many seconds have passed. What is waited is no time that the service took (`api.observed`)."""
    began_at, state = time.monotonic(), request.scope["state"]
    try:
        await asyncio.wait_for(changed.wait(), max(seconds, 0))
    except TimeoutError:
        return False
    finally:
        state["waited_seconds"] = state.get("waited_seconds", 0.0) + time.monotonic() - began_at
    return True


def _asked_to_wait(prefer: str | None) -> int | None:
    """Seconds, of RFC 7240's `wait`; other preferences are none of ours, and none is ever an error."""
    for preference in (prefer or "").split(","):
        if waits := _WAIT.fullmatch(preference.partition(";")[0]):
            return min(int(waits[1]), MAX_WAIT_SECONDS)
    return None
