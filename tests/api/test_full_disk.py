"""A full disk: an answer that says so, nothing half-written, and all is well once there is room."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient
from tmpfs import fill, small_disk

from api.app import create_app
from store.blobs import open_blobs
from store.database import Database
from store.room import is_full
from store.settings import Settings

Refused = Callable[..., dict[str, Any]]
MIB = 1 << 20
DATASET = "/v1/datasets?format=safetensors"


@pytest.fixture
def settings(settings: Settings) -> Iterator[Settings]:
    """Blobs on a disk of 8 MiB."""
    with small_disk(settings.blob_dir, 8 * MIB):
        yield settings.model_copy(update={"min_free_bytes": 0})


def safetensors(num_bytes: int) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [num_bytes], "data_offsets": [0, num_bytes]}}).encode()
    return len(header).to_bytes(8, "little") + header + os.urandom(num_bytes)


def files(settings: Settings) -> list[str]:
    return [path.name for path in settings.blob_dir.rglob("*") if path.is_file()]


@pytest.mark.parametrize("num_bytes", [12 * MIB, 8 * MIB + 1000])
def test_an_upload_that_does_not_fit(client: TestClient, settings: Settings, refused: Refused, num_bytes: int) -> None:
    """It comes in chunks, so nobody knows its size before; it fails in a write, or in the last flush."""

    def chunks() -> Iterator[bytes]:
        content = safetensors(num_bytes)
        yield from (content[start : start + MIB] for start in range(0, len(content), MIB))

    before = client.get("/v1/datasets").json()
    response = client.post(DATASET, content=chunks())
    assert refused(response, 507, "insufficient_storage")["retryable"] is True
    assert response.headers["retry-after"] == "60"
    assert files(settings) == []
    assert client.get("/v1/datasets").json() == before
    assert client.post(DATASET, content=safetensors(6 * MIB)).status_code == 201, "there is room for this one"


def test_below_the_minimum_nothing_is_read(settings: Settings, database: Database, refused: Refused) -> None:
    assert settings.api_key is not None
    key = {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"}
    with TestClient(create_app(settings.model_copy(update={"min_free_bytes": 4 * MIB})), headers=key) as client:
        assert client.get("/readyz").json()["blobs"] == "ok"
        refused(client.post(DATASET, content=safetensors(5 * MIB)), 507, "insufficient_storage")
        ballast = fill(settings.blob_dir)
        asked_for: list[int] = []

        def chunks() -> Iterator[bytes]:
            asked_for.append(1)
            yield safetensors(10)

        refused(client.post(DATASET, content=chunks()), 507, "insufficient_storage")
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["status"], ready.json()["blobs"]) == (200, "degraded", "full")
        ballast.unlink()
        assert client.get("/readyz").json()["blobs"] == "ok"
        assert client.post(DATASET, content=safetensors(MIB)).status_code == 201


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_database_without_room(settings: Settings, database: Database, refused: Refused) -> None:
    """The file, which was stored before, goes as well: nobody would come for it."""
    assert settings.api_key is not None
    key = {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"}
    database.close()
    with small_disk(settings.data_dir / "database", 4 * MIB) as folder:
        shutil.copy(settings.data_dir / "espalier.db", folder)
        elsewhere = settings.model_copy(update={"database_url": f"sqlite:///{folder}/espalier.db"})
        with TestClient(create_app(elsewhere), headers=key) as client:
            kept = client.post(DATASET, content=safetensors(10)).json()
            [file] = files(settings)
            ballast = fill(folder)
            for _ in range(3):
                refused(client.post(DATASET, content=safetensors(10)), 507, "insufficient_storage")
                assert files(settings) == [file]
            assert client.get("/v1/datasets").json()["data"] == [kept], "it can still be read"
            ballast.unlink()
            assert client.post(DATASET, content=safetensors(10)).status_code == 201


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_what_postgresql_says_without_room_is_known(database: Database) -> None:
    raised = "do $$ begin raise exception 'could not extend file' using errcode = '53100'; end $$"
    with pytest.raises(Exception, match="could not extend file") as caught, database.transaction() as session:
        session.execute(text(raised))
    assert is_full(caught.value)
    with pytest.raises(Exception, match="division by zero") as caught, database.transaction() as session:
        session.execute(text("select 1/0"))
    assert not is_full(caught.value)


def test_a_copy_for_a_worker_that_does_not_fit(settings: Settings, database: Database) -> None:
    blobs = open_blobs(settings)
    with small_disk(settings.data_dir / "work", MIB) as work:
        blob = blobs.put([bytes(2 * MIB)], 4 * MIB)
        with pytest.raises(Exception, match="no room") as caught:
            blobs.fetch(blob, work / "input")
        assert is_full(caught.value)
        assert list(work.iterdir()) == []
