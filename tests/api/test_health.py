"""What a supervisor asks: is the process up, can it work? Nobody needs a key for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import make_url, text
from starlette.testclient import TestClient

from api.app import create_app
from store.database import Database
from store.settings import Settings

Refused = Callable[..., dict[str, Any]]

DEAD = "redis://127.0.0.1:1/0"


def test_all_is_well(anonymous: TestClient) -> None:
    assert anonymous.get("/healthz").json() == {"status": "ok"}
    response = anonymous.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {"status": "ready", "database": "ok", "broker": "ok", "blobs": "ok"}


@pytest.fixture
def without_broker(settings: Settings, database: Database) -> Iterator[TestClient]:
    assert settings.api_key is not None
    headers = {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"}
    alone = settings.model_copy(update={"broker_url": DEAD})
    with TestClient(create_app(alone), headers=headers) as client:
        yield client


def test_without_its_broker_it_is_degraded(without_broker: TestClient) -> None:
    response = without_broker.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {"status": "degraded", "database": "ok", "broker": "away", "blobs": "ok"}


def test_without_its_broker_it_takes_work_all_the_same(without_broker: TestClient, body: dict[str, Any]) -> None:
    job = without_broker.post("/v1/jobs", json=body)
    assert job.status_code == 201, job.text
    for verb, status in (("pause", "paused"), ("resume", "queued")):
        assert without_broker.post(f"/v1/jobs/{job.json()['id']}/{verb}").json()["status"] == status
    assert without_broker.post("/v1/models?format=architecture&architecture=lenet5").status_code == 201


def test_without_its_database_it_is_not_ready(settings: Settings, refused: Refused) -> None:
    url = make_url(settings.database)
    gone = url.set(database=f"{url.database}/gone").render_as_string()
    with TestClient(create_app(settings.model_copy(update={"database_url": gone}))) as client:
        response = client.get("/readyz")
        assert refused(response, 503, "unavailable")["retryable"] is True
        assert response.headers["retry-after"] == "1"
        # The process itself is well: restarting it would mend nothing.
        assert client.get("/healthz").status_code == 200


def test_without_a_schema_it_is_not_ready(anonymous: TestClient, database: Database, refused: Refused) -> None:
    with database.transaction() as session:
        session.execute(text("alter table projects rename to elsewhere"))
    refused(anonymous.get("/readyz"), 503, "unavailable")
