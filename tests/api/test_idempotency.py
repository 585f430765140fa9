"""A request that is sent again with its key is done once, and answered the same."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy import select, update
from starlette.testclient import TestClient

from api.app import create_app
from api.auth import KeyedRoute, ProjectId
from api.idempotency import ShownOnce
from store.database import Database
from store.settings import Settings
from store.tables import Dataset, IdempotencyKey, Job

Refused = Callable[..., dict[str, Any]]
Posted = Callable[..., dict[str, Any]]
KEY = {"Idempotency-Key": "my-key"}
REPLAYED = "idempotent-replayed"
NPZ = b"PK\x03\x04 some content"


def num_jobs(database: Database) -> int:
    with database.reading() as session:
        return len(session.scalars(select(Job.id)).all())


def test_a_job_is_made_once(
    client: TestClient, body: dict[str, Any], refused: Refused, database: Database, other: dict[str, str]
) -> None:
    first = client.post("/v1/jobs", json=body, headers=KEY)
    assert (first.status_code, REPLAYED in first.headers) == (201, False)
    client.post(f"/v1/jobs/{first.json()['id']}/cancel")
    again = client.post("/v1/jobs", json=dict(reversed(body.items())), headers=KEY)
    assert (again.status_code, again.headers[REPLAYED], again.json()) == (201, "true", first.json())
    assert again.headers["location"] == first.headers["location"]
    problem = refused(
        client.post("/v1/jobs", json={**body, "priority": 3}, headers=KEY),
        *(422, "idempotency_mismatch", "header:idempotency-key"),
    )
    assert not problem["retryable"]
    refused(client.post("/v1/jobs", json=body, headers=KEY | other), 422, "not_found", "/model")
    assert num_jobs(database) == 1
    assert client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "another"}).json()["id"] != first.json()["id"]
    assert client.post("/v1/jobs?validate_only=true", json=body, headers={"Idempotency-Key": "a"}).status_code == 200
    assert client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "a"}).status_code == 201, "a plan is no work"


def test_many_at_once_make_one(client: TestClient, body: dict[str, Any], database: Database) -> None:
    with ThreadPoolExecutor(6) as threads:
        posts = [threads.submit(client.post, "/v1/jobs", json=body, headers=KEY) for _ in range(6)]
        answers = [post.result(30) for post in posts]
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == num_jobs(database) == 1
    assert [REPLAYED in answer.headers for answer in answers].count(False) == 1


def test_a_refusal_is_not_kept(client: TestClient, body: dict[str, Any], refused: Refused) -> None:
    wrong = {**body, "model": "mdl_0"}
    for _ in range(2):
        refused(client.post("/v1/jobs", json=wrong, headers=KEY), 422, "not_found", "/model")
    assert client.post("/v1/jobs", json=body, headers=KEY).status_code == 201


def test_verbs_and_retries_are_answered_again(client: TestClient, posted: Posted, refused: Refused) -> None:
    job, another = posted(), posted()
    path = f"/v1/jobs/{job['id']}"
    paused = client.post(f"{path}/pause", headers=KEY).json()
    client.post(f"{path}/resume")
    replayed = client.post(f"{path}/pause", headers=KEY)
    assert (replayed.headers[REPLAYED], replayed.json()) == ("true", paused)
    assert client.get(path).json()["status"] == "queued", "nobody paused it a second time"
    refused(
        client.post(f"/v1/jobs/{another['id']}/pause", headers=KEY),
        *(422, "idempotency_mismatch", "header:idempotency-key"),
    )
    client.post(f"{path}/cancel", headers=KEY)  # the same key on another route is another
    retry = client.post(f"{path}/retry", headers=KEY)
    client.post(f"/v1/jobs/{retry.json()['id']}/cancel")
    again = client.post(f"{path}/retry", headers=KEY)
    assert (again.status_code, again.json()) == (201, retry.json()), "though another retry could be made by now"


@pytest.mark.parametrize("key", ["", "x" * 256, "käse", "a\tb"])
def test_keys_are_printable(client: TestClient, body: dict[str, Any], refused: Refused, key: str) -> None:
    response = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": key.encode("latin-1")})  # type: ignore[dict-item]
    refused(response, 422, "invalid_request", "header:idempotency-key")


def test_a_file_is_taken_in_once(client: TestClient, refused: Refused, database: Database) -> None:
    path = "/v1/datasets?format=npz&name=digits"
    first = client.post(path, content=NPZ, headers=KEY)
    again = client.post(path, content=NPZ, headers=KEY)
    assert (again.status_code, again.headers[REPLAYED], again.json()) == (201, "true", first.json())
    mismatch = (422, "idempotency_mismatch", "header:idempotency-key")
    refused(client.post(path, content=NPZ + b"!", headers=KEY), *mismatch)
    refused(client.post(f"{path}2", content=NPZ, headers=KEY), *mismatch)
    with database.reading() as session:
        assert session.scalars(select(Dataset.id)).all() == [first.json()["id"]]
    complete = KEY | {"Upload-Complete": "?1"}
    uploads = [client.post("/v1/uploads", content=NPZ, headers=complete).json()["id"] for _ in range(2)]
    assert uploads[0] == uploads[1]
    by_upload = {"Idempotency-Key": "by upload"}
    made = [client.post(f"{path}&upload={upload}", headers=by_upload).json() for upload in uploads]
    assert made[0]["id"] == made[1]["id"] != first.json()["id"]
    seeded = "/v1/models?format=architecture&architecture=lenet5"
    model = client.post(seeded, headers=KEY).json()
    assert client.post(seeded, headers=KEY).json() == model


def test_a_file_on_its_way_holds_its_key(client: TestClient, refused: Refused, database: Database) -> None:
    path = "/v1/datasets?format=npz"
    refused(client.post(path, content=b"no npz at all", headers=KEY), 422, "invalid_content", "")
    made = client.post(path, content=NPZ, headers=KEY)
    assert made.status_code == 201, "what was refused has let go of the key"
    with database.transaction() as session:  # as if it were still on its way
        session.execute(update(IdempotencyKey).values(status=None))
    answer = client.post(path, content=NPZ, headers=KEY)
    problem = refused(answer, 409, "idempotency_in_progress", "header:idempotency-key")
    assert (problem["retryable"], answer.headers["retry-after"]) == (True, "1")
    with database.transaction() as session:  # its process has died, a while ago
        session.execute(update(IdempotencyKey).values(expires_at=1.0))
    assert client.post(path, content=NPZ, headers=KEY).json()["id"] != made.json()["id"]


class Wish(BaseModel):
    name: str


class Granted(BaseModel):
    name: str
    number: int
    secret: ShownOnce


def test_any_route_is_covered_and_secrets_are_not_kept(settings: Settings, database: Database) -> None:
    made: list[str] = []
    router = APIRouter(route_class=KeyedRoute)

    @router.post("/v1/wishes", status_code=201)
    def grant(given: Wish, project_id: ProjectId) -> Granted:
        made.append(given.name)
        if given.name == "ruin":
            raise RuntimeError("as one of ours would")
        return Granted(name=given.name, number=len(made), secret="s3cr3t")

    app = create_app(settings)
    app.include_router(router)
    assert settings.api_key is not None
    key = {"Authorization": f"Bearer {settings.api_key.get_secret_value()}", **KEY}
    with TestClient(app) as client:
        for _ in range(2):
            assert client.post("/v1/wishes", json={"name": "ruin"}, headers=key).status_code == 500
        first = client.post("/v1/wishes", json={"name": "a"}, headers=key)
        again = client.post("/v1/wishes", json={"name": "a"}, headers=key)
    assert first.json() == {"name": "a", "number": 3, "secret": "s3cr3t"}
    assert (again.status_code, again.json()) == (201, {"name": "a", "number": 3, "secret": None})
    assert made == ["ruin", "ruin", "a"]
    with database.reading() as session:
        assert "s3cr3t" not in (session.scalars(select(IdempotencyKey.body)).one() or "")
