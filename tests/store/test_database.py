"""What both databases promise alike: how one is named, what a transaction sees, who waits for whom."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing

import pytest
from postgres import PostgresServer
from pydantic import ValidationError
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.exc import DBAPIError

from store import jobs
from store.blobs import StoredBlob, located, refer
from store.database import AWAY, Database, now
from store.settings import Settings
from store.tables import Blob, Job


class Beside(threading.Thread):
    """Runs `do` beside the test, with a connection of its own, and keeps what came of it."""

    def __init__(self, do: Callable[[], object]) -> None:
        super().__init__()
        self._do, self.outcome = do, None
        self.start()
        self.join(0.7)

    def run(self) -> None:
        try:
            self.outcome = self._do()
        except Exception as error:
            self.outcome = type(error)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("postgres://u:p%25@db.example:5432/espalier", "postgresql+psycopg://u:p%25@db.example:5432/espalier"),
        ("postgresql://db/espalier?sslmode=require", "postgresql+psycopg://db/espalier?sslmode=require"),
        ("postgresql+psycopg:///espalier?host=/run", "postgresql+psycopg:///espalier?host=/run"),
        ("sqlite:////var/lib/espalier.db", "sqlite:////var/lib/espalier.db"),
    ],
)
def test_a_url_as_other_tools_write_it(monkeypatch: pytest.MonkeyPatch, given: str, meant: str) -> None:
    monkeypatch.setenv("ESPALIER_DATABASE_URL", given)
    assert Settings().database == meant


def test_another_database_is_refused_and_its_password_is_not_shown() -> None:
    with pytest.raises(ValidationError, match="begins with postgresql:// or sqlite:///") as refused:
        Settings(database_url="mysql://user:hunter2@db/espalier")
    assert "hunter2" not in str(refused.value)


def test_an_error_does_not_tell_what_was_to_be_stored(database: Database) -> None:
    """It is logged, and sent with a trace."""
    with pytest.raises(DBAPIError) as error, database.transaction() as session:
        session.execute(text("insert into no_such_table values (:content)"), {"content": "a user's own"})
    assert "no_such_table" in str(error.value)
    assert "a user's own" not in str(error.value)


def test_its_clock_goes_on_within_a_transaction(database: Database) -> None:
    """As the clock of whoever waits for a lease does, not as PostgreSQL's `now()`, which stands still."""
    with database.transaction() as session:
        first = session.scalars(select(now())).one()
        time.sleep(0.05)
        second = session.scalars(select(now())).one()
    assert 0.04 < second - first < 5
    assert abs(second - time.time()) < 60


def test_a_reading_is_one_snapshot(database: Database, submit: Callable[..., Job]) -> None:
    job = submit()
    with database.reading() as session:
        before = session.scalar(select(Job.version).where(Job.id == job.id))
        with database.transaction() as writing:
            writing.execute(update(Job).where(Job.id == job.id).values(version=Job.version + 1))
        assert session.scalar(select(Job.version).where(Job.id == job.id)) == before
    with database.reading() as session:
        assert session.scalar(select(Job.version).where(Job.id == job.id)) == before + 1


def test_two_claims_at_once_take_two_jobs(database: Database, submit: Callable[..., Job], dialect: str) -> None:
    """On PostgreSQL truly at once: the second goes past the row that the first holds. On SQLite it waits."""
    first, second = submit(), submit()

    def claim() -> str | None:
        with database.transaction() as session:
            job = jobs.claim(session, "cpu", "b", 60)
        return job and job.id

    with database.transaction() as session:
        claimed = jobs.claim(session, "cpu", "a", 60)
        assert claimed is not None
        other = Beside(claim)
        assert other.is_alive() == (dialect == "sqlite")
    other.join(10)
    assert (claimed.id, other.outcome) == (first.id, second.id)
    assert claim() is None


def test_who_refers_to_a_blob_waits_for_its_collector(database: Database) -> None:
    blob = StoredBlob("0" * 64, 3, "0" * 64)
    with database.transaction() as session:
        refer(session, blob)

    def take() -> None:
        with database.transaction() as session:
            refer(session, blob)

    with database.transaction() as session:
        session.execute(delete(Blob).where(Blob.digest == blob.digest))
        other = Beside(take)
        assert other.is_alive()
    other.join(10)
    with database.reading() as session:
        assert located(session, blob.digest) == blob, "a row of its own"


def test_two_that_bring_the_same_blob_share_its_row(database: Database) -> None:
    blob = StoredBlob("1" * 64, 3, "1" * 64)

    def take() -> str:
        with database.transaction() as session:
            refer(session, blob)
        return "taken"

    with database.transaction() as session:
        refer(session, blob)
        other = Beside(take)
        assert other.is_alive()
    other.join(10)
    assert other.outcome == "taken"
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Blob)) == 1


def test_postgresql_waits_for_no_lock_for_ever(postgres: PostgresServer) -> None:
    """What the URL says goes before what we say ourselves."""
    with (
        postgres.database() as url,
        closing(Database(url)) as ours,
        closing(Database(f"{url}&options=-c%20lock_timeout%3D200ms")) as hasty,
    ):
        with ours.transaction() as session:
            assert session.scalar(text("SHOW lock_timeout")) == "15s"
            assert session.scalar(text("SHOW idle_in_transaction_session_timeout")) == "1min"
            refer(session, StoredBlob("2" * 64, 3, "2" * 64))
            with pytest.raises(AWAY), hasty.transaction() as other:
                refer(other, StoredBlob("2" * 64, 3, "2" * 64))
        with hasty.transaction() as other:
            refer(other, StoredBlob("2" * 64, 3, "2" * 64))


def test_connections_that_a_restart_has_cut_are_made_anew() -> None:
    with PostgresServer() as server, server.database() as url, closing(Database(url)) as database:
        with database.reading() as session:
            assert session.scalar(select(func.count()).select_from(Blob)) == 0
        server.kill()
        with pytest.raises(AWAY), database.reading() as session:
            session.scalar(select(func.count()).select_from(Blob))
        server.start()
        for _ in range(2):
            with database.reading() as session:
                assert session.scalar(select(func.count()).select_from(Blob)) == 0
