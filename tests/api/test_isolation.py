"""Projects do not see each other: on every route of the document, without a key, with a wrong one and with another's.

A new route is tested as soon as it is documented; a new kind of id needs a row in `ids`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from store.database import Database
from store.ids import new_id
from store.tables import Base

Refused = Callable[..., dict[str, Any]]
Posted = Callable[..., dict[str, Any]]
Ids = dict[str, str]

KEYED = [
    (method.upper(), path)
    for path, item in create_app().openapi()["paths"].items()
    for method in item
    if path.startswith("/v1/")
] + [("HEAD", "/v1/artifacts/{artifact_id}/content")]  # an operation of its own, which the document leaves out
WITH_ID = [(method, path) for method, path in KEYED if "{" in path]
NEVER = {
    "model_id": new_id("mdl"),
    "dataset_id": new_id("ds"),
    "job_id": new_id("job"),
    "artifact_id": new_id("art"),
    "upload_id": new_id("upl"),
}


def body_of(method: str, path: str) -> dict[str, Any]:
    """What a route wants before it looks for the row."""
    return {"json": {}} if method == "PATCH" and "/jobs/" in path else {}


@pytest.fixture
def ids(client: TestClient, posted: Posted, bench: Any) -> Ids:
    """By path parameter, of rows that are there: a running job with one round."""
    job = posted()
    bench.store_round(bench.claim(), 0, 0.9, 0.0)
    artifacts = client.get(f"/v1/jobs/{job['id']}/artifacts").json()["data"]
    return {
        "model_id": job["model"],
        "dataset_id": job["dataset"],
        "job_id": job["id"],
        "artifact_id": artifacts[0]["id"],
        "upload_id": client.post("/v1/uploads", headers={"Upload-Complete": "?0"}).json()["id"],
        "number": "0",
    }


def test_the_document_is_read() -> None:
    assert {("POST", "/v1/jobs"), ("GET", "/v1/strategies"), ("DELETE", "/v1/models/{model_id}")} <= set(KEYED)
    assert {name for _, path in KEYED for name in re.findall(r"{(\w+)}", path)} <= NEVER.keys() | {"number"}


@pytest.mark.parametrize("authorization", [None, "Bearer esp_wrong"])
def test_nothing_answers_without_a_right_key(
    anonymous: TestClient, refused: Refused, subtests: pytest.Subtests, authorization: str | None
) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    for method, path in KEYED:
        with subtests.test(method=method, path=path):
            path = path.format(number="0", **NEVER)
            response = anonymous.request(method, path, headers=headers, content=b"not even JSON")
            assert response.status_code == 401
            assert response.headers["www-authenticate"].startswith("Bearer")
            if method != "HEAD":
                refused(response, 401, "unauthorized", "header:authorization")


def test_another_projects_rows_are_as_none(
    client: TestClient,
    refused: Refused,
    ids: Ids,
    other: dict[str, str],
    database: Database,
    subtests: pytest.Subtests,
) -> None:
    before = all_rows(database)
    for method, path in WITH_ID:
        with subtests.test(method=method, path=path):
            theirs = client.request(method, path.format(**ids), headers=other, **body_of(method, path))
            none = client.request(method, path.format(**{**ids, **NEVER}), headers=other, **body_of(method, path))
            assert theirs.status_code == none.status_code == 404
            assert without_ids(theirs.text, ids) == without_ids(none.text, NEVER)
            assert without_request_id(theirs.headers) == without_request_id(none.headers)
            if method != "HEAD":
                refused(theirs, 404, "not_found")
            assert all_rows(database) == before


def test_to_its_own_project_every_one_of_these_rows_is_there(
    client: TestClient, ids: Ids, subtests: pytest.Subtests
) -> None:
    """Else the test above could not fail. What would end the job or the upload comes last."""
    ends = {"/v1/jobs/{job_id}/cancel", "/v1/uploads/{upload_id}"}
    for method, path in sorted(WITH_ID, key=lambda route: (route[1] in ends and route[0] in ("POST", "DELETE"), route)):
        with subtests.test(method=method, path=path):
            response = client.request(method, path.format(**ids), **body_of(method, path))
            if "/uploads/" in path:
                # PATCH is refused for what its head leaves out, once the row is found.
                assert response.status_code == {"PATCH": 415, "GET": 200}.get(method, 204)
            elif method == "DELETE":
                code = "invalid_transition" if "jobs" in path else "in_use"
                assert (response.status_code, response.json()["code"]) == (409, code)
            elif path.endswith(("/resume", "/retry")):
                assert response.status_code in (200, 409)  # of a job that runs, or one that is told to pause
            else:
                assert response.status_code == 200


def test_lists_hold_the_projects_own(client: TestClient, ids: Ids, other: dict[str, str]) -> None:
    for path in ("/v1/models", "/v1/datasets", "/v1/jobs", f"/v1/jobs?model={ids['model_id']}"):
        assert len(client.get(path).json()["data"]) == 1
        assert client.get(path, headers=other).json() == {
            "object": "list",
            "data": [],
            "has_more": False,
            "next_cursor": None,
        }


def test_a_job_cannot_use_another_projects_rows(
    client: TestClient, refused: Refused, ids: Ids, other: dict[str, str], body: dict[str, Any]
) -> None:
    theirs = client.post("/v1/jobs", json=body, headers=other)
    none = client.post("/v1/jobs", json={**body, "model": NEVER["model_id"]}, headers=other)
    refused(theirs, 422, "not_found", "/model")
    assert without_ids(theirs.text, ids) == without_ids(none.text, NEVER)


def all_rows(database: Database) -> dict[str, list[Any]]:
    with database.reading() as session:
        return {table.name: list(session.execute(table.select())) for table in Base.metadata.sorted_tables}


def without_ids(text: str, ids: Ids) -> str:
    for name in NEVER:
        text = text.replace(ids[name], name)
    return re.sub(r'"request_id": "req_\w+"', "", text)


def without_request_id(headers: Any) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != "x-request-id"}
