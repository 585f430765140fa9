"""Requests that bring content to one upload: one after the other, in two processes, at the same time, too late."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient
from uploading import ON_BOTH_STORES, Uploading, content_of, parts

from api import resumable
from api.app import create_app
from api.resumable import Arrival
from api.upload_headers import Said
from store import uploads
from store.blobs import Vanishing
from store.database import Database
from store.settings import Settings
from store.uploads import Superseded

KIB = 1024


@pytest.fixture
def settings(settings: Settings, blob_kind: str, request: pytest.FixtureRequest) -> Settings:
    blob_url = str(request.getfixturevalue("s3_url")) if blob_kind == "s3" else None
    return settings.model_copy(update={"blob_url": blob_url, "max_upload_bytes": 1 << 20, "max_open_uploads": 3})


@ON_BOTH_STORES
def test_another_process_goes_on(up: Uploading, client: TestClient, settings: Settings, database: Database) -> None:
    """One that has seen nothing of what came before."""
    content = os.urandom(200 * KIB)
    up.begin(content[: 70 * KIB])
    with TestClient(create_app(settings), headers=client.headers) as elsewhere:
        theirs = Uploading(elsewhere)
        theirs.path = up.path
        assert theirs.append(content[70 * KIB : 140 * KIB], theirs.offset).status_code == 204
    done = up.append(content[140 * KIB :], 140 * KIB, complete=True)
    assert done.json()["sha256"] == hashlib.sha256(content).hexdigest()
    assert content_of(settings, database, done.json()["sha256"]) == content


@pytest.fixture
def arriving(up: Uploading, client: TestClient) -> Iterator[Callable[[], Arrival]]:
    """A further request to `up`, content of which comes as the test says."""
    arrivals: list[Arrival] = []
    app: Any = client.app

    def begin() -> Arrival:
        services = app.state.services
        with services.database.transaction() as session:
            turn = uploads.take_turn(session, up.path.rpartition("/")[2], 3600)
        said = Said(complete=True, offset_bytes=None, length_bytes=None, content_digest=None, repr_digest=None)
        arrivals.append(Arrival(services, turn, said, 1 << 20))
        return arrivals[-1]

    yield begin
    for arrival in arrivals:
        arrival.close()


@ON_BOTH_STORES
@pytest.mark.parametrize("counted", [False, True], ids=["", "counted before"])
def test_the_later_of_two_writers_counts(
    up: Uploading, arriving: Callable[[], Arrival], settings: Settings, database: Database, counted: bool
) -> None:
    """The earlier one hangs with its file open, and goes on when the later one has counted: nothing of it is there."""
    up.begin(b"head")
    earlier = arriving()
    earlier.write(b"more")
    if counted:
        earlier.count()
        earlier.write(b"XXXX")
    stop = 8 if counted else 4
    assert up.offset == stop
    assert up.append(b"tail", stop).status_code == 204
    earlier.write(b"XXXX")
    with pytest.raises(Superseded):
        earlier.count()
    with pytest.raises(Superseded):
        earlier.complete()
    later = arriving()
    earlier.write(b"XXXX")
    later.write(b".")
    earlier.write(b"XXXX")
    later.count()
    later.complete()
    earlier.write(b"XXXX")
    done = up.client.get(up.path).json()
    expected = b"headmoretail." if counted else b"headtail."
    assert content_of(settings, database, done["sha256"]) == expected
    assert done["sha256"] == hashlib.sha256(expected).hexdigest()


def test_a_turn_that_is_lost_before_its_file_is_opened_cuts_nothing(
    up: Uploading, arriving: Callable[[], Arrival]
) -> None:
    up.begin(b"head")
    late = arriving()
    assert up.append(b"tail", 4).status_code == 204
    late.write(b"X")
    late.close()
    assert up.append(b".", 8, complete=True).json()["sha256"] == hashlib.sha256(b"headtail.").hexdigest()


def test_what_comes_is_counted_while_it_comes(
    up: Uploading, arriving: Callable[[], Arrival], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable, "COUNT_BYTES", 4)
    up.begin(b"head")
    arrival = arriving()
    for seconds, counted in ((0, 8), (3600, 8), (0, 16)):
        monkeypatch.setattr(resumable, "COUNT_SECONDS", seconds)
        arrival.write(b"1234")
        assert up.client.get(up.path).json()["offset_bytes"] == counted
    arrival.write(b"12")
    arrival.count_what_came()
    assert (up.offset, parts(database)) == (18, [(0, 18)]), "one file, which grows"


def test_a_part_that_no_row_named_for_too_long_does_not_count(
    up: Uploading, arriving: Callable[[], Arrival], database: Database
) -> None:
    """A collector may have taken it."""
    up.begin()
    arrival = arriving()
    arrival.write(b"12345")
    assert arrival._writer is not None
    part = arrival._writer.settle()
    with database.transaction() as session, pytest.raises(Vanishing):
        uploads.count(session, arrival._turn, replace(part, refer_by=time.time() - 1), 3600)
    assert up.offset == 0


def test_two_that_put_the_same_whole_together(up: Uploading, arriving: Callable[[], Arrival]) -> None:
    """The answer to the first took too long, and the client asked again."""
    up.begin(b"whole")
    first = arriving()
    with database_of(first).transaction() as session:
        closed = uploads.close(session, first._turn, 5)
    assert up.append(b"", 5, complete=True).status_code == 200
    with database_of(first).transaction() as session:
        uploads.complete(session, first._turn.upload_id, first._whole(closed), 3600)
    assert up.client.get(up.path).json()["complete"] is True


def database_of(arrival: Arrival) -> Database:
    database: Database = arrival._services.database
    return database


def test_of_many_that_begin_at_once_no_more_than_allowed_do(database: Database, project: str) -> None:
    def begin(_: int) -> bool:
        with database.transaction() as session:
            try:
                uploads.create(session, project, length_bytes=None, expected_digest=None, max_open=3, expiry_seconds=60)
            except uploads.TooMany:
                return False
            return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(begin, range(12))) == 3
