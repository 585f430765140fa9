"""The outermost part of every request: its id, the service's version, and the answer where all else failed."""

from __future__ import annotations

import logging
import re

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import Problem, problem_response
from store.ids import new_id
from store.logs import bound
from store.version import VERSION

log = logging.getLogger(__name__)

_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


class Edge:
    """`X-Request-Id` in, if it is sane, and out; `Espalier-Version` out, so that a client can tell whether it fits; an
    exception that nobody handled becomes a problem and a log line.

    Plain ASGI, so that bodies stream through it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _SANE_ID.fullmatch(given) else new_id("req")
        scope.setdefault("state", {})["request_id"] = request_id
        has_started = False

        async def send_named(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                MutableHeaders(scope=message).update({"X-Request-Id": request_id, "Espalier-Version": VERSION})
            await send(message)

        with bound(request_id=request_id):
            try:
                await self.app(scope, receive, send_named)
            except ClientDisconnect:
                log.info("request %s: the client went away", request_id)
            except Exception:
                log.exception("request %s failed: %s %r", request_id, scope["method"], scope["path"])
                if has_started:
                    raise  # the server cuts the connection, so that half an answer is not taken for a whole one
                problem = Problem("internal_error", "the service failed; its log names this request_id")
                await problem_response(Request(scope), problem)(scope, receive, send_named)
