"""Requests that bring content to an upload right now, so that the next one can have them let go."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

LET_GO_SECONDS = 10.0


@dataclass
class _Request:
    receiving: asyncio.Task[None]
    is_over: asyncio.Event = field(default_factory=asyncio.Event)


class Underway:
    """Of this process, and used on its event loop alone. What another process receives is fenced by the database, and
    loses what it has not counted yet."""

    def __init__(self) -> None:
        self._requests: dict[str, _Request] = {}

    @contextmanager
    def registered(self, upload_id: str, receiving: asyncio.Task[None]) -> Iterator[None]:
        mine = self._requests[upload_id] = _Request(receiving)
        try:
            yield
        finally:
            mine.is_over.set()
            if self._requests.get(upload_id) is mine:
                del self._requests[upload_id]

    async def let_go(self, upload_id: str) -> None:
        """Stop receiving, and wait until what has come is counted: the client has given that request up, but it is
        often faster to ask for the offset than a cut connection is to be noticed."""
        request = self._requests.get(upload_id)
        if request is None:
            return
        request.receiving.cancel()
        with suppress(TimeoutError):  # it is stuck: fenced all the same
            await asyncio.wait_for(request.is_over.wait(), LET_GO_SECONDS)
