"""Every request is timed, logged and traced, inside the edge that gives it its id.

Plain ASGI, so that bodies stream through it.
"""

from __future__ import annotations

import logging
import time

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.metrics import HttpMetrics
from store import traces

log = logging.getLogger(__name__)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""A client may send any word: all others are one."""
NOBODY = "unmatched"
"""The route of a request that none takes."""
QUIET = ("/healthz", "/readyz", "/metrics")
"""Asked every few seconds by machines: no trace, and a line for those who debug."""


PATH_CHARACTERS = 200
"""Of a path, in the log: servers take ones of 64 KiB."""


class Observed:
    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began_at, status = time.monotonic(), 0

        async def send_seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        span: Span = trace.INVALID_SPAN
        if scope["path"] not in QUIET:
            came_from = traces.incoming(Headers(scope=scope).get("traceparent"))
            span = traces.tracer.start_span("HTTP", context=came_from, kind=SpanKind.SERVER)
        outcome = "5xx"
        try:
            with trace.use_span(span, end_on_exit=False, record_exception=True):
                await self.app(scope, receive, send_seen)
            outcome = f"{status // 100}xx" if status else outcome
        except ClientDisconnect:
            outcome = "disconnected"
            raise
        finally:
            # A client that asked to wait was not kept waiting by the service.
            seconds = time.monotonic() - began_at - scope.get("state", {}).get("waited_seconds", 0.0)
            method = scope["method"] if scope["method"] in METHODS else "other"
            route = route_of(scope)
            self.metrics.observe(method, route, outcome, seconds)
            span.update_name(f"{method} {route}")
            span.set_attributes({"http.request.method": method, "http.route": route})
            if status:
                span.set_attribute("http.response.status_code", status)
            if outcome == "5xx":
                span.set_status(StatusCode.ERROR)
            span.end()
            level = logging.DEBUG if scope["path"] in QUIET else logging.INFO
            log_request(level, method, scope["path"], status, seconds)


def log_request(level: int, method: str, path: str, status: int, seconds: float) -> None:
    """Never the query or a header: those may hold what is nobody's business."""
    said = {
        "method": method,
        "path": path[:PATH_CHARACTERS],
        "status": status or None,
        "seconds": round(seconds, 4),
    }
    log.log(level, "request", extra=said)


def route_of(scope: Scope) -> str:
    """The template of the matched route, `/v1/jobs/{job_id}`: of few values, whatever clients ask for."""
    template: str | None = getattr(scope.get("route"), "path", None)
    if template is None:
        return NOBODY
    # A route knows its own part of the path, not the prefix of the routers above it, which matched word by word.
    parts, own = scope["path"].split("/"), template.split("/")[1:]
    return "/".join([*parts[: len(parts) - len(own)], *own])
