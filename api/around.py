"""Around the answer to a key: its rate limit in the headers; and, once the answer is out, that the key was used."""

from __future__ import annotations

import logging
import threading

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.services import Services
from store.database import AWAY
from store.keys import record_use

log = logging.getLogger(__name__)


class Around:
    """Plain ASGI, so that bodies stream through it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._pending: set[str] = set()
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})

        async def send_with_rates(message: Message) -> None:
            if message["type"] == "http.response.start" and "standing" in state:
                MutableHeaders(scope=message).update(state["standing"].headers())
            await send(message)

        await self.app(scope, receive, send_with_rates)
        if "used_key" in state:
            await run_in_threadpool(self._record, scope["app"].state.services, state["used_key"])

    def _record(self, services: Services, key_id: str) -> None:
        """Of many requests at once one writes. A database that is away loses a time that nobody waits for."""
        with self._lock:
            if key_id in self._pending:
                return
            self._pending.add(key_id)
        try:
            with services.database.transaction() as session:
                record_use(session, key_id)
        except AWAY as error:
            log.warning("the use of key %s could not be recorded: %s", key_id, error)
        finally:
            with self._lock:
                self._pending.discard(key_id)
