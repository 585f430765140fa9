"""The cheap answer to a poll: `GET /v1/jobs/{id}` from memory, where one query says that it is still the answer.

A body is kept when the route has rendered it, under the job's stamp. The query (`store.prepared`) asks for the stamp
again, and for the key, in one row: no row, another stamp, a key that may not read or whose use is to be noted, a client
that waits, a database that stumbles: then the route answers, as if there were no memory. So nothing is refused here,
and no change is missed: all processes read it from the job's row.

It stands in front of all else that a request passes, which costs three times as much as the answer. So it gives the
answer its id and counts it itself; in the log it is a line for those who debug, and no span.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from typing import Any, NamedTuple

from sqlalchemy import Select, bindparam, case, func, select
from sqlalchemy.orm import aliased
from starlette.types import ASGIApp, Receive, Scope, Send

from api.conditional import names
from api.edge import request_id_of
from api.metrics import HttpMetrics
from api.observed import log, log_request
from store.database import Database
from store.keys import digest_of, is_alive, is_use_due
from store.listing import goes_first
from store.logs import bound
from store.prepared import prepared
from store.tables import ApiKey, Job, JobStatus

_PATH = re.compile(r"/v1/jobs/([a-z]{2,4}_[0-9a-z]{1,32})")
_ESTIMATE_SECONDS = 1.0
"""How old `eta_seconds` may be: it changes with the clock, and with nothing in the row."""
_COUNTED = 1000
"""A job further back in its queue is counted by the route: counting takes as long as the queue."""
_MAX_BODIES, _MAX_BYTES = 1000, 32 << 10
_ROUTE = "/v1/jobs/{job_id}"
_READING = {"read", "admin"}


class Stamp(NamedTuple):
    """All that a job's document depends on, but for the clock."""

    version: int
    queue_position: int | None
    retried_from: str | None
    """In the stamp, since it is no change of the job when the one before is deleted."""


class Shown(NamedTuple):
    stamp: Stamp
    body: bytes
    done: bool
    has_estimate: bool
    retry_after: int | None

    @property
    def etag(self) -> str:
        return f'"r{self.stamp.version}"'


class _Kept(NamedTuple):
    stamp: Stamp
    etag: str
    until: float
    """For so long the body is true; that nothing has changed stays true as long as the stamp does."""
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Memory:
    """Of one process; safe to fill from any thread."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._lock = threading.Lock()

    def keep(self, job_id: str, shown: Shown, read_at: float) -> None:
        """`read_at`: by the monotonic clock, before it was read."""
        if len(shown.body) > _MAX_BYTES:
            return
        headers = [(b"etag", shown.etag.encode())]
        if shown.retry_after is not None:
            headers.append((b"retry-after", str(shown.retry_after).encode()))
        until = read_at + _ESTIMATE_SECONDS if shown.has_estimate else float("inf")
        with self._lock:
            self._kept.pop(job_id, None)
            self._kept[job_id] = _Kept(shown.stamp, shown.etag, until, headers, shown.body)
            if len(self._kept) > _MAX_BODIES:
                del self._kept[next(iter(self._kept))]

    def get(self, job_id: str) -> _Kept | None:
        return self._kept.get(job_id)


def _statement() -> Select[Any]:
    """Of `job_id`, for whoever has the key of this `digest`: what it may, whether its use is due, the stamp."""
    ahead = aliased(Job)
    before = (
        select(ahead.id)
        .where(ahead.pool == Job.pool, ahead.status == JobStatus.QUEUED.value, goes_first(ahead))
        .limit(_COUNTED)
        .correlate(Job)
        .subquery()
    )
    position = case((Job.status == JobStatus.QUEUED.value, select(func.count()).select_from(before).scalar_subquery()))
    return (
        select(ApiKey.scopes, is_use_due(), Job.version, position, Job.retried_from)
        .join_from(ApiKey, Job, Job.project_id == ApiKey.project_id)
        .where(ApiKey.digest == bindparam("digest"), is_alive(), Job.id == bindparam("job_id"))
    )


class Polls:
    def __init__(self, database: Database) -> None:
        self.memory = Memory()
        self.query = prepared(database.engine, _statement())

    async def stamp(self, key: str, job_id: str) -> Stamp | None:
        """None: the route has to answer, whatever the reason."""
        row = await self.query.row({"digest": digest_of(key), "job_id": job_id})
        if row is None:
            return None
        scopes, use_is_due, *stamp = row
        if use_is_due or _READING.isdisjoint(scopes):
            return None
        found = Stamp(*stamp)
        return None if found.queue_position == _COUNTED else found


class _Asked(NamedTuple):
    """What a poll's head says."""

    key: str
    if_none_match: str | None
    request_id: str


class Polled:
    """Plain ASGI, around everything."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "GET" and (path := _PATH.fullmatch(scope["path"])):
            began_at = time.monotonic()
            status = await _answer(scope, send, path[1])
            if status is not None:
                seconds = time.monotonic() - began_at
                self.metrics.observe("GET", _ROUTE, f"{status // 100}xx", seconds)
                if log.isEnabledFor(logging.DEBUG):
                    with bound(request_id=scope["state"]["request_id"]):
                        log_request(logging.DEBUG, "GET", scope["path"], status, seconds)
                return
        await self.app(scope, receive, send)


async def _answer(scope: Scope, send: Send, job_id: str) -> int | None:
    """The status that was sent; None: nothing was."""
    services = scope["app"].state.services
    polls: Polls = services.polls
    kept = polls.memory.get(job_id)
    asked = _asked(scope) if kept is not None and services.rates is None else None
    if kept is None or asked is None:
        return None
    given = asked.if_none_match
    is_unchanged = given is not None and names(given, kept.etag)
    if not is_unchanged and time.monotonic() >= kept.until:
        return None
    if await polls.stamp(asked.key, job_id) != kept.stamp:
        return None
    scope.setdefault("state", {})["request_id"] = asked.request_id
    headers = [*kept.headers, (b"x-request-id", asked.request_id.encode())]
    if not is_unchanged:
        headers += [(b"content-length", b"%d" % len(kept.body)), (b"content-type", b"application/json")]
    status, body = (304, b"") if is_unchanged else (200, kept.body)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
    return status


def _asked(scope: Scope) -> _Asked | None:
    """None, too, where the client would wait for a change."""
    key, if_none_match, request_id = None, None, ""
    for name, value in scope["headers"]:
        if name == b"authorization" and key is None:
            scheme, _, key = value.decode("latin-1").partition(" ")
            if scheme.lower() != "bearer":
                return None
        elif name == b"if-none-match" and if_none_match is None:
            if_none_match = value.decode("latin-1")
        elif name == b"x-request-id" and not request_id:
            request_id = value.decode("latin-1")
        elif name == b"prefer":
            return None
    key = key and key.strip()
    return _Asked(key, if_none_match, request_id_of(request_id)) if key else None
