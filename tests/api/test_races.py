"""Two requests that meet at one row: the second waits for the first, and answers to what that left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from typing import Any

import pytest
from sqlalchemy import delete
from starlette.testclient import TestClient

from store.database import Database
from store.tables import Dataset, Model

Refused = Callable[..., dict[str, Any]]


@pytest.fixture
def meanwhile() -> Iterator[Callable[..., Future[Any]]]:
    """meanwhile(do, *args): in another thread, until it has to wait for this one."""
    with ThreadPoolExecutor(1) as thread:

        def start(do: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
            future = thread.submit(do, *args, **kwargs)
            wait_for([future], timeout=0.7)
            return future

        yield start


@pytest.mark.parametrize(("entity", "field"), [(Model, "model"), (Dataset, "dataset")])
def test_a_job_on_what_is_being_deleted_is_refused(
    client: TestClient,
    body: dict[str, Any],
    database: Database,
    refused: Refused,
    meanwhile: Callable[..., Future[Any]],
    entity: Any,
    field: str,
) -> None:
    with database.transaction() as session:
        session.execute(delete(entity).where(entity.id == body[field]))
        posted = meanwhile(client.post, "/v1/jobs", json=body)
        assert not posted.done()
    refused(posted.result(10), 422, "not_found", f"/{field}")


def test_what_a_job_is_being_made_of_is_in_use(
    client: TestClient, body: dict[str, Any], refused: Refused, database: Database
) -> None:
    """Many of each at once: whichever was first, the other is told so."""
    for _ in range(5):
        model = client.post("/v1/models?format=architecture&architecture=lenet5").json()["id"]
        with database.transaction() as session:
            row = session.get_one(Model, model)
            row.status, row.report = "ready", session.get_one(Model, body["model"]).report
        with ThreadPoolExecutor(4) as threads:
            posts = [threads.submit(client.post, "/v1/jobs", json={**body, "model": model}) for _ in range(2)]
            deletes = [threads.submit(client.delete, f"/v1/models/{model}") for _ in range(2)]
        posted = [post.result() for post in posts]
        deleted = [delete.result() for delete in deletes]
        if 201 in [response.status_code for response in posted]:
            assert {response.status_code for response in posted} == {201}
            for response in deleted:
                refused(response, 409, "in_use")
        else:
            for response in posted:
                refused(response, 422, "not_found", "/model")
            assert sorted(response.status_code for response in deleted) == [204, 404]


def test_of_two_deletions_the_second_finds_nothing(
    client: TestClient, body: dict[str, Any], database: Database, meanwhile: Callable[..., Future[Any]]
) -> None:
    with database.transaction() as session:
        session.execute(delete(Model).where(Model.id == body["model"]))
        deleted = meanwhile(client.delete, f"/v1/models/{body['model']}")
        assert not deleted.done()
    assert deleted.result(10).status_code == 404
