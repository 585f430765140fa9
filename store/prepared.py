"""One query of one row, asked again and again from an event loop that is never blocked by it.

A session, a thread and a driver's general ways cost several times what the query does. Here the statement is compiled
once. On SQLite it runs on the loop, a search of indices in microseconds, and a busy file is not waited for. On
PostgreSQL it is prepared on one connection of its own, over which many callers ask at a time (libpq's pipeline mode).
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.pq import ExecStatus
from sqlalchemy import JSON, Engine, Select
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from store.database import POSTGRES

log = logging.getLogger(__name__)

Row = tuple[Any, ...]
AWAY_SECONDS = 1.0
"""Between two attempts to connect."""
_NAME = b"asked_again"
_DOLLARS = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
"""Parameters as PostgreSQL itself has them, $1."""
_READ_TEXT: Mapping[type, Callable[[bytes], Any]] = {
    str: bytes.decode,
    int: int,
    bool: b"t".__eq__,
    object: json.loads,  # a JSON column may hold anything
}


class SqliteQuery:
    """Belongs to the event loop that runs it."""

    def __init__(self, engine: Engine, statement: Select[Any]) -> None:
        compiled = statement.compile(engine)
        self._engine, self._sql = engine, str(compiled)
        self._constants, self._order = compiled.params, compiled.positiontup or ()
        self._json = [i for i, column in enumerate(statement.selected_columns) if isinstance(column.type, JSON)]
        self._connection: sqlite3.Connection | None = None
        self._next_try_at = 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """A database that is away keeps nobody from starting."""
        self._connect()
        try:
            yield
        finally:
            if self._connection is not None:
                self._connection.close()
            self._connection, self._next_try_at = None, math.inf

    def _connect(self) -> None:
        if time.monotonic() < self._next_try_at:
            return
        self._next_try_at = time.monotonic() + AWAY_SECONDS
        words, named = self._engine.dialect.create_connect_args(self._engine.url)
        never_waits: dict[str, Any] = {**named, "timeout": 0, "isolation_level": None}
        try:
            self._connection = sqlite3.connect(*words, **never_waits)  # type: ignore[call-overload]
            self._connection.execute("PRAGMA query_only=ON")
        except sqlite3.Error as error:
            log.info("a query is to be asked another way: %s", error)

    async def row(self, given: Mapping[str, str]) -> Row | None:
        """None: there is none, or the database did not answer."""
        if self._connection is None:
            self._connect()
        if self._connection is None:
            return None
        values = self._constants | given
        try:
            rows = self._connection.execute(self._sql, [values[name] for name in self._order]).fetchall()
        except sqlite3.Error as error:
            log.info("a query is to be asked another way: %s", error)
            return None
        if not rows:
            return None
        row = list(rows[0])
        for index in self._json:
            row[index] = json.loads(row[index])
        return tuple(row)


class PostgresQuery:
    """Belongs to the event loop that runs it."""

    def __init__(self, engine: Engine, statement: Select[Any]) -> None:
        compiled = statement.compile(dialect=_DOLLARS)
        self._engine, self._sql = engine, str(compiled)
        self._constants, self._order = compiled.params, compiled.positiontup or ()
        self._read = [_READ_TEXT[column.type.python_type] for column in statement.selected_columns]
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._asked: deque[asyncio.Future[Row | None]] = deque()
        """In the order in which the server answers."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """A database that is away keeps nobody from starting."""
        self._connecting = asyncio.create_task(self._connect())
        try:
            yield
        finally:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
            self._let_go()

    async def row(self, given: Mapping[str, str]) -> Row | None:
        """None: there is none, or the database did not answer."""
        if self._connection is None:
            return None
        values = self._constants | given
        connection = self._connection.pgconn
        answer: asyncio.Future[Row | None] = asyncio.get_running_loop().create_future()
        try:
            connection.send_query_prepared(_NAME, [str(values[name]).encode() for name in self._order])
            connection.pipeline_sync()  # an error of one query is none of the next one's
            self._asked.append(answer)
            self._send()
        except psycopg.Error as error:
            self._lose(error)
            return None
        return await answer

    def _send(self) -> None:
        """What the socket does not take now, later."""
        if self._connection is not None:
            loop, connection = asyncio.get_running_loop(), self._connection.pgconn
            if connection.flush():
                loop.add_writer(connection.socket, self._send)
            else:
                loop.remove_writer(connection.socket)

    def _receive(self) -> None:
        assert self._connection is not None
        connection = self._connection.pgconn
        try:
            connection.consume_input()
            while self._asked and not connection.is_busy():
                result = connection.get_result()
                if result is None or result.status == ExecStatus.PIPELINE_SYNC:
                    continue  # between two answers
                if result.status != ExecStatus.TUPLES_OK:
                    raise psycopg.OperationalError(result.error_message.decode(errors="replace"))
                row = None
                if result.ntuples:
                    row = tuple(
                        None if (text := result.get_value(0, column)) is None else read(text)
                        for column, read in enumerate(self._read)
                    )
                _tell(self._asked.popleft(), row)
        except psycopg.Error as error:
            self._lose(error)

    def _lose(self, error: psycopg.Error) -> None:
        log.info("a query is to be asked another way: %s", error)
        self._let_go()
        self._connecting = asyncio.create_task(self._connect(AWAY_SECONDS))

    def _let_go(self) -> None:
        if self._connection is not None:
            connection, loop = self._connection.pgconn, asyncio.get_running_loop()
            loop.remove_reader(connection.socket)
            loop.remove_writer(connection.socket)
            connection.finish()
            self._connection = None
        while self._asked:
            _tell(self._asked.popleft(), None)

    async def _connect(self, after_seconds: float = 0.0) -> None:
        await asyncio.sleep(after_seconds)
        while True:
            try:
                await self._open()
                return
            except psycopg.Error as error:
                log.info("no connection for a query: %s", error)
                await asyncio.sleep(AWAY_SECONDS)

    async def _open(self) -> None:
        words, named = self._engine.dialect.create_connect_args(self._engine.url)
        made = await psycopg.AsyncConnection.connect(*words, **{**POSTGRES, **named, "autocommit": True})
        try:
            await made.execute(b"PREPARE " + _NAME + b" AS " + self._sql.encode())
            made.pgconn.enter_pipeline_mode()
        except BaseException:  # cancelled, too
            await made.close()
            raise
        self._connection = made
        asyncio.get_running_loop().add_reader(made.pgconn.socket, self._receive)


def _tell(asked: asyncio.Future[Row | None], row: Row | None) -> None:
    """Whoever went away is told nothing."""
    if not asked.done():
        asked.set_result(row)


Query = SqliteQuery | PostgresQuery


def prepared(engine: Engine, statement: Select[Any]) -> Query:
    """`statement` selects strings, whole numbers, truths and JSON; its parameters are strings."""
    return SqliteQuery(engine, statement) if engine.dialect.name == "sqlite" else PostgresQuery(engine, statement)
