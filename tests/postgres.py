"""A real PostgreSQL server of the tests' own, with a database for each test."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator

import psycopg
from psycopg import sql

import chaos.postgres
import migrations
from store.tables import Base


class PostgresServer(chaos.postgres.PostgresServer):
    def __init__(self) -> None:
        super().__init__()
        self._unused: list[str] = []

    @contextlib.contextmanager
    def database(self, migrated: bool = True) -> Iterator[str]:
        """The URL of a database for this test alone: migrated and without a row, or as it is made.

        Migrated ones are emptied and used again: to make one takes ten times as long as most tests do.
        """
        name = self._unused.pop() if migrated and self._unused else self._make(migrated)
        try:
            yield self.url(name)
        finally:
            if migrated and self._is_empty_now(name):
                self._unused.append(name)
            else:
                self.execute("DROP DATABASE {} WITH (FORCE)", name)

    def _make(self, migrated: bool) -> str:
        name = f"test_{secrets.token_hex(6)}"
        self.execute("CREATE DATABASE {}", name)
        if migrated:
            migrations.upgrade(self.url(name))
        return name

    def _is_empty_now(self, name: str) -> bool:
        """False where the test left another schema."""
        others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        tables = [sql.Identifier(table.name) for table in reversed(Base.metadata.sorted_tables)]
        try:
            with psycopg.connect(self.conninfo(name)) as connection:
                # Whoever the test has left behind may write no more; each is waited for.
                connection.execute(sql.SQL("SELECT pg_terminate_backend(pid, 5000) " + others))
                connection.execute(sql.SQL(";").join(sql.SQL("DELETE FROM {}").format(table) for table in tables))
        except psycopg.errors.UndefinedTable:
            return False
        return True
