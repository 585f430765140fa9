"""Engine, transactions and the database's clock, the same on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, Float, ScalarSelect, create_engine, event, func, make_url, select
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.functions import FunctionElement

from store import counters

AWAY = (OperationalError, InterfaceError, InternalError, PoolTimeout)
"""Raised while the database cannot do its work: gone, restarting, a replica that takes no writes, a lock that is held
too long, of two transactions that wait for each other the one that was chosen. Asking again later is right."""

LOCK_SECONDS = 15
"""How long a statement waits for a lock, on both: whoever asks hears of it while it can still do something else."""

POSTGRES = {
    # A server that vanished without a word is noticed within seconds. Without these a renewal would wait for hours in
    # a read, past the end of its lease, and a child would train on for nobody.
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    # And the server lets go of what a client that vanished (or was stopped) still has locked.
    "options": f"-c lock_timeout={LOCK_SECONDS}s -c idle_in_transaction_session_timeout=60s",
    "application_name": "espalier",
}

POOL_SIZE, MAX_OVERFLOW = 4, 4
"""Connections of one process: kept, and on top of them in a rush. PostgreSQL allows 100 in all where nobody set it
otherwise. A worker needs one for each slot and its heartbeat, the sweeper one, and one more while it notes what became
of a message; an API process answers 8 requests at a time and lets others wait their turn, which is milliseconds:
nothing holds a connection while a body is read or a file is sent. So 4 API processes (32), 20 workers of one slot and
some sweepers fit, with room for whoever looks in by hand."""


class now(FunctionElement[float]):  # noqa: N801 - reads as the SQL function it is
    """Seconds since 1970 by the **database's** clock: leases of workers with wrong clocks still agree."""

    type = Float()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(_element: Any, _compiler: Any, **_kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgresql(_element: Any, _compiler: Any, **_kw: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


def moment() -> ScalarSelect[float]:
    """`now()`, read once by the statement, before it looks for rows: an index can be searched for it, and not for a
    clock that runs. Where a sweeper looks for the few rows that are due among millions that are not."""
    return select(now()).scalar_subquery()


class Database:
    """One engine and its two kinds of transaction."""

    def __init__(self, url: str, foreign_keys: bool = True) -> None:
        given = make_url(url)
        is_sqlite = given.get_backend_name() == "sqlite"
        # What the URL says itself (`?connect_timeout=30`) goes before ours.
        ours = {} if is_sqlite else {name: value for name, value in POSTGRES.items() if name not in given.query}
        self.engine = create_engine(
            url,
            pool_size=POOL_SIZE,
            max_overflow=MAX_OVERFLOW,
            pool_pre_ping=not is_sqlite,  # connections that a restart of the server has cut are made anew
            connect_args=ours,
            hide_parameters=True,  # an error's text is logged and traced: it tells the statement, not a user's content
        )
        if is_sqlite:
            _prepare_sqlite(self.engine, foreign_keys)
            self._reading = self.engine.execution_options(read_only=True)
        else:
            self._reading = self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Commits at the end, rolls back on an exception. SQLite: BEGIN IMMEDIATE, so no lock is upgraded midway, and
        one at a time. PostgreSQL: READ COMMITTED, so what is read may change before it is written unless it is
        locked or the write is guarded."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session
            counters.write(session)  # last, so that rows which everybody writes are locked for a moment only

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """For queries alone: one snapshot, beside any writer."""
        with Session(self._reading, expire_on_commit=False) as session:
            yield session

    def close(self) -> None:
        self.engine.dispose()


def one_at_a_time(session: Session | Connection) -> None:
    """From here to its end, this transaction runs beside no other that asks for the same: for what is done once in a
    database's life, and reads before it writes. On SQLite every writing transaction does so anyhow."""
    bind = session if isinstance(session, Connection) else session.connection()
    if bind.dialect.name == "postgresql":
        bind.execute(select(func.pg_advisory_xact_lock(0x0E59A11E)))


def is_schema_another(error: ProgrammingError) -> bool:
    """PostgreSQL knows no such table or column: this database was not brought up to date (`python -m migrations`)."""
    return getattr(error.orig, "sqlstate", None) in ("42P01", "42703")


def _prepare_sqlite(engine: Engine, foreign_keys: bool) -> None:
    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        cursor = connection.cursor()
        # The timeout comes first: turning WAL on takes a lock, too.
        for pragma in (f"busy_timeout={LOCK_SECONDS * 1000}", "journal_mode=WAL", "synchronous=FULL"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        read_only = connection.get_execution_options().get("read_only", False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
