"""What takes packages that not every worker has is refused before a job is made."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from store import workers
from store.database import Database
from store.settings import Settings
from store.tables import Worker
from store.workers import Announcement


def announce(database: Database, settings: Settings, name: str, extras: tuple[str, ...], silent: float = 0) -> None:
    worker = Announcement(
        id=name, pool=settings.default_pool, device="cpu", slots=1, hostname="h", version="1", extras=extras
    )
    with database.transaction() as session:
        workers.begin(session, worker)
        session.execute(update(Worker).where(Worker.id == name).values(seen_at=Worker.seen_at - silent))


@pytest.fixture
def asked(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "artifacts": ["model", "onnx"]}


def test_every_living_worker_of_the_pool_must_have_it(
    client: TestClient, asked: dict[str, Any], settings: Settings, database: Database
) -> None:
    announce(database, settings, "gone", (), silent=3600)
    assert client.post("/v1/jobs", json=asked).status_code == 201  # nobody lives who could say
    announce(database, settings, "with", ("onnx",))
    assert client.post("/v1/jobs", json=asked).status_code == 201
    announce(database, settings, "without", ())
    for query in ("", "?validate_only=true"):
        refused = client.post(f"/v1/jobs{query}", json=asked)
        assert refused.status_code == 422
        problem = refused.json()
        assert (problem["code"], problem["param"]) == ("extra_missing", "/artifacts/1")
        assert "1 of the 2 workers" in problem["detail"]
        assert "espalier-server[worker,onnx]" in problem["detail"]
    assert client.post("/v1/jobs", json={**asked, "artifacts": ["model", "card"]}).status_code == 201
    assert client.post("/v1/jobs", json={**asked, "pool": "another"}).status_code == 201
    said = {worker["id"]: worker["extras"] for worker in client.get("/v1/workers").json()["data"]}
    assert said["with"] == ["onnx"]
    assert said["without"] == []


def test_a_reduced_one_needs_a_removal(client: TestClient, asked: dict[str, Any]) -> None:
    refused = client.post("/v1/jobs", json={**asked, "artifacts": ["reduced_onnx"]})
    assert refused.status_code == 422
    assert "set recipe.materialize to true" in refused.json()["detail"]
