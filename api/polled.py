"""The cheap answer to a poll: `GET /v1/jobs/{id}` from memory, where one query says that it is still the answer.

A body is kept when the route has rendered it, under the job's stamp. The query asks for the stamp again, and for the
key, in one row: no row, another stamp, a key that may not read or whose use is to be noted, a client that waits, a
database that stumbles: then the route answers, as if there were no memory. So nothing is refused here, and no change
is missed: all processes read it from the job's row.

It runs on the event loop: a thread costs more than the query, on SQLite a search of three indices. So there nothing is
waited for, a busy file least of all; on PostgreSQL one connection of this process's own is asked without blocking.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import psycopg
from sqlalchemy import Select, bindparam, case, func, select
from sqlalchemy.orm import aliased
from starlette.types import ASGIApp, Receive, Scope, Send

from api.conditional import names
from store.database import POSTGRES, Database
from store.keys import digest_of, is_alive, is_use_due
from store.listing import goes_first
from store.tables import ApiKey, Job, JobStatus

log = logging.getLogger(__name__)

_PATH = re.compile(r"/v1/jobs/([a-z]{2,4}_[0-9a-z]{1,32})")
_ESTIMATE_SECONDS = 1.0
"""How old `eta_seconds` may be: it changes with the clock, and with nothing in the row."""
_COUNTED = 1000
"""A job further back in its queue is counted by the route: counting takes as long as the queue."""
_MAX_BODIES, _MAX_BYTES = 1000, 32 << 10
_AWAY_SECONDS = 1.0
"""Between two attempts to connect."""


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
        kept = self._kept.get(job_id)
        return kept if kept is not None and time.monotonic() < kept.until else None


def _statement() -> Select[Any]:
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
    """The connection that is asked. Belongs to the event loop that runs it."""

    def __init__(self, database: Database) -> None:
        self.memory = Memory()
        self._engine = database.engine
        compiled = _statement().compile(self._engine)
        self._sql = str(compiled)
        self._constants = compiled.params
        self._order = compiled.positiontup or ()
        self._sqlite: sqlite3.Connection | None = None
        self._postgres: psycopg.AsyncConnection[Any] | None = None
        self._connecting: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """A database that is away keeps nobody from starting."""
        self._connecting = asyncio.create_task(self._connect())
        try:
            yield
        finally:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
            if self._sqlite is not None:
                self._sqlite.close()
            if self._postgres is not None:
                await self._postgres.close()

    async def stamp(self, key: str, job_id: str) -> Stamp | None:
        """None: the route has to answer, whatever the reason."""
        given = {"digest": digest_of(key), "job_id": job_id}
        try:
            row = await self._row(given)
        except (sqlite3.Error, psycopg.Error) as error:
            log.info("a poll is answered the long way: %s", error)
            return None
        if row is None:
            return None
        scopes, due, *stamp = row
        if due or not {"read", "admin"} & set(json.loads(scopes) if isinstance(scopes, str) else scopes):
            return None
        found = Stamp(*stamp)
        return None if found.queue_position == _COUNTED else found

    async def _row(self, given: dict[str, str]) -> Any:
        if self._sqlite is not None:
            values = self._constants | given
            rows = self._sqlite.execute(self._sql, [values[name] for name in self._order]).fetchall()
            return rows[0] if rows else None
        if self._postgres is None:
            return None
        if self._postgres.closed:
            self._reconnect()
            return None
        cursor = await self._postgres.execute(self._sql, self._constants | given, prepare=True)
        return await cursor.fetchone()

    def _reconnect(self) -> None:
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        words, named = self._engine.dialect.create_connect_args(self._engine.url)
        if self._engine.dialect.name == "sqlite":
            never_waits: dict[str, Any] = {**named, "timeout": 0, "isolation_level": None}
            self._sqlite = sqlite3.connect(*words, **never_waits)  # type: ignore[call-overload]
            self._sqlite.execute("PRAGMA query_only=ON")
            return
        while True:
            try:
                self._postgres = await psycopg.AsyncConnection.connect(
                    *words, **{**POSTGRES, **named, "autocommit": True}
                )
                return
            except psycopg.Error as error:
                log.info("no connection for polls: %s", error)
                await asyncio.sleep(_AWAY_SECONDS)


class _Route:
    path = "/jobs/{job_id}"
    """As `api.observed` tells it of the route itself."""


class Polled:
    """Plain ASGI, around the routes and inside all that sees every request."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kept = await _answer(scope) if scope["type"] == "http" and scope["method"] == "GET" else None
        if kept is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = _Route
        given = next((value for name, value in scope["headers"] if name == b"if-none-match"), None)
        if given is not None and names(given.decode("latin-1"), kept.etag):
            await send({"type": "http.response.start", "status": 304, "headers": [*kept.headers]})
            await send({"type": "http.response.body", "body": b""})
            return
        content = [(b"content-length", str(len(kept.body)).encode()), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": [*kept.headers, *content]})
        await send({"type": "http.response.body", "body": kept.body})


async def _answer(scope: Scope) -> _Kept | None:
    asked = _PATH.fullmatch(scope["path"])
    if asked is None:
        return None
    services = scope["app"].state.services
    polls: Polls = services.polls
    kept = polls.memory.get(asked[1])
    if kept is None or services.rates is not None:
        return None
    key = _key(scope)
    if key is None or await polls.stamp(key, asked[1]) != kept.stamp:
        return None
    return kept


def _key(scope: Scope) -> str | None:
    """None, too, where the client would wait for a change."""
    key = None
    for name, value in scope["headers"]:
        if name == b"prefer":
            return None
        if name == b"authorization" and key is None:
            scheme, _, key = value.decode("latin-1").partition(" ")
            if scheme.lower() != "bearer":
                return None
    return key and key.strip()
