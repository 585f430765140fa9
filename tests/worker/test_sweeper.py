"""A sweeper goes on, whatever one part of its round meets."""

from __future__ import annotations

import errno

import pytest
from sqlalchemy import text

from store.blobs import BlobsAway, Full
from store.database import Database
from worker.sweeper import survives


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), Full("no room"), BlobsAway("away"), KeyError("ours")]
)
def test_a_part_that_fails_ends_no_sweeper(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise error

    assert not survives(fail)
    assert "trying again" in caplog.text
    assert survives(lambda: None)


def test_a_database_that_fails_ends_no_sweeper(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    def ask() -> None:
        with database.transaction() as session:
            session.execute(text("select * from no_such_table"))

    assert not survives(ask)
    assert "trying again" in caplog.text
