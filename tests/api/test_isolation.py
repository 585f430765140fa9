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
from store.ids import Prefix, new_id
from store.keys import SCOPES, add_key
from store.tables import Base

Refused = Callable[..., dict[str, Any]]
Posted = Callable[..., dict[str, Any]]
Ids = dict[str, str]

OPEN = "open"
DOCUMENTED = {
    (method.upper(), path): operation.get("x-scope", OPEN)
    for path, item in create_app().openapi()["paths"].items()
    for method, operation in item.items()
}
MATRIX = {
    OPEN: [
        *("GET /healthz", "GET /readyz", "GET /.well-known/espalier-key"),
        *("GET /links", "POST /v1/auth/token"),  # a signed link, and a CI's token, are keys of their own
    ],
    "read": [
        *(f"GET /v1/{kind}" for kind in ("models", "datasets", "jobs", "strategies", "capabilities")),
        *("GET /v1/models/{model_id}", "GET /v1/datasets/{dataset_id}", "GET /v1/jobs/{job_id}"),
        *(f"GET /v1/jobs/{{job_id}}/{part}" for part in ("events", "rounds", "rounds/{number}", "artifacts", "report")),
        *(f"GET /v1/jobs/{{job_id}}/{part}" for part in ("pareto", "pareto.csv", "plot.svg", "plot.png")),
        *(f"GET /v1/jobs/{{job_id}}/sensitivity{end}" for end in ("", ".csv", ".svg", ".png")),
        *(f"GET /v1/artifacts/{{artifact_id}}{part}" for part in ("", "/content", "/provenance")),
        *("GET /v1/uploads/{upload_id}", "HEAD /v1/uploads/{upload_id}"),
        *(f"GET /v1/webhooks{part}" for part in ("", "/{webhook_id}", "/{webhook_id}/deliveries")),
    ],
    "write": [
        *("POST /v1/models", "POST /v1/datasets", "POST /v1/jobs"),
        *("DELETE /v1/models/{model_id}", "DELETE /v1/datasets/{dataset_id}"),
        *("PATCH /v1/jobs/{job_id}", "DELETE /v1/jobs/{job_id}", "POST /v1/artifacts/{artifact_id}/links"),
        *("POST /v1/uploads", "PATCH /v1/uploads/{upload_id}", "DELETE /v1/uploads/{upload_id}"),
        *("POST /v1/webhooks", "PATCH /v1/webhooks/{webhook_id}", "DELETE /v1/webhooks/{webhook_id}"),
        *(f"POST /v1/webhooks/{{webhook_id}}/{part}" for part in ("ping", "rotate")),
        "POST /v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver",
        *(f"POST /v1/jobs/{{job_id}}/{verb}" for verb in ("cancel", "pause", "resume", "retry")),
    ],
    "ops": ["GET /v1/workers", "GET /metrics"],
    "admin": [
        *(f"{method} /v1/{kind}" for kind in ("projects", "keys", "trust_rules") for method in ("GET", "POST")),
        *(f"{method} /v1/projects/{{project_id}}" for method in ("GET", "PATCH", "DELETE")),
        *(f"{method} /v1/keys/{{key_id}}" for method in ("GET", "PATCH", "DELETE")),
        *(f"{method} /v1/trust_rules/{{trust_rule_id}}" for method in ("GET", "PATCH", "DELETE")),
        *("POST /v1/keys/{key_id}/rotate", "GET /v1/audit_log"),
    ],
}
"""Every route by the scope that it needs: a new one is listed here, or the first test fails."""
HIDDEN = ("HEAD", "/v1/artifacts/{artifact_id}/content")  # an operation of its own, which the document leaves out
KEYED = [route for route, scope in DOCUMENTED.items() if scope != OPEN] + [HIDDEN]
WITH_ID = [(method, path) for method, path in KEYED if "{" in path]
PREFIXES: dict[str, Prefix] = {
    "model_id": "mdl",
    "dataset_id": "ds",
    "job_id": "job",
    "artifact_id": "art",
    "upload_id": "upl",
    "project_id": "prj",
    "key_id": "key",
    "trust_rule_id": "tr",
    "webhook_id": "wh",
    "delivery_id": "dlv",
}
NEVER = {name: new_id(prefix) for name, prefix in PREFIXES.items()}
BODIES: dict[str, Any] = {"rotate": {}, "PATCH": {"name": "another"}}
"""By the last part of the path, or by the method."""


@pytest.fixture
def ids(client: TestClient, posted: Posted, bench: Any) -> Ids:
    """By path parameter, of rows that are there: a running job with one round, a webhook with one message."""
    job = posted()
    bench.store_round(bench.claim(), 0, 0.9, 0.0)
    artifacts = client.get(f"/v1/jobs/{job['id']}/artifacts").json()["data"]
    webhook = client.post("/v1/webhooks", json={"url": "https://example.com", "events": ["job.failed"]}).json()
    return {
        "model_id": job["model"],
        "dataset_id": job["dataset"],
        "job_id": job["id"],
        "artifact_id": artifacts[0]["id"],
        "upload_id": client.post("/v1/uploads", headers={"Upload-Complete": "?0"}).json()["id"],
        "webhook_id": webhook["id"],
        "delivery_id": client.post(f"/v1/webhooks/{webhook['id']}/ping").json()["id"],
        "number": "0",
        "project_id": client.get("/v1/projects").json()["data"][0]["id"],
        "key_id": client.post("/v1/keys", json={"name": "k", "scopes": ["read"]}).json()["id"],
        "trust_rule_id": client.post("/v1/trust_rules", json=TRUST_RULE).json()["id"],
    }


TRUST_RULE = {
    "name": "ci",
    "issuer": "https://issuer.example",
    "audience": "espalier",
    "conditions": {"repository": "octo-org/network"},
    "scopes": ["read"],
}


def request(client: TestClient, method: str, path: str, headers: dict[str, str] | None = None) -> Any:
    body = BODIES.get(path.rpartition("/")[2], BODIES.get(method))
    if "/webhooks/" in path or "/jobs/" in path:
        body = {} if method == "PATCH" else None
    return client.request(method, path, headers=headers, **({} if body is None else {"json": body}))


def test_every_route_is_in_the_matrix() -> None:
    assert {tuple(route.split(" ", 1)): scope for scope, routes in MATRIX.items() for route in routes} == DOCUMENTED
    assert {name for _, path in KEYED for name in re.findall(r"{(\w+)}", path)} <= NEVER.keys() | {"number"}


def test_nothing_answers_but_to_a_right_key(
    anonymous: TestClient, refused: Refused, database: Database, project: str, subtests: pytest.Subtests
) -> None:
    """Known before a byte of the body is read; so a body that is not even JSON changes nothing."""
    with database.transaction() as session:

        def key(*scopes: str, **columns: Any) -> str:
            return add_key(session, project_id=project, name="k", scopes=scopes, **columns)[1]

        closed = ["", "Bearer esp_wrong", f"Bearer {key('admin', expires_at=1.0)}"]
        closed.append(f"Bearer {key('admin', revoked_at=1.0)}")
        right = {scope: key(scope) for scope in SCOPES}
        lacking = {scope: key(*({*SCOPES} - {scope, "admin"})) for scope in SCOPES}
    for method, path in KEYED:
        scope = DOCUMENTED.get((method, path), "read")
        path = path.format(number="0", **NEVER)

        def answer(authorization: str, method: str = method, path: str = path) -> Any:
            headers = {"Authorization": authorization} if authorization else {}
            return anonymous.request(method, path, headers=headers, content=b"not even JSON")

        with subtests.test(method=method, path=path):
            for authorization in closed:
                response = answer(authorization)
                assert response.status_code == 401
                assert response.headers["www-authenticate"].startswith("Bearer")
                if method != "HEAD":
                    refused(response, 401, "unauthorized", "header:authorization")
            response = answer(f"Bearer {lacking[scope]}")
            assert response.status_code == 403
            assert f'scope="{scope}"' in response.headers["www-authenticate"]
            if method != "HEAD":
                assert refused(response, 403, "insufficient_scope")["scope"] == scope
            for enough in (right[scope], right["admin"]):
                response = answer(f"Bearer {enough}")
                if (method, path) == ("POST", "/v1/projects"):  # and an operator's
                    refused(response, 415, "unsupported_media_type", "header:content-type")
                assert response.status_code not in (401, 403), response.text


def test_another_projects_rows_are_as_none(
    client: TestClient,
    refused: Refused,
    ids: Ids,
    other: dict[str, str],
    database: Database,
    subtests: pytest.Subtests,
) -> None:
    client.get("/v1/jobs", headers=other)  # its use is written now, and not again below
    before = all_rows(database)
    for method, path in WITH_ID:
        with subtests.test(method=method, path=path):
            theirs = request(client, method, path.format(**ids), headers=other)
            none = request(client, method, path.format(**{**ids, **NEVER}), headers=other)
            assert theirs.status_code == none.status_code == 404
            assert without_ids(theirs.text, ids) == without_ids(none.text, NEVER)
            assert without_request_id(theirs.headers) == without_request_id(none.headers)
            if method != "HEAD":
                refused(theirs, 404, "not_found")
            assert all_rows(database) == before


def test_to_its_own_project_every_one_of_these_rows_is_there(
    client: TestClient, ids: Ids, subtests: pytest.Subtests
) -> None:
    """Else the test above could not fail. What would end the job, the upload or a key comes last."""
    for method, path in sorted(WITH_ID, key=lambda route: (route[0] == "DELETE", "cancel" in route[1], route)):
        with subtests.test(method=method, path=path):
            response = request(client, method, path.format(**ids))
            if "/webhooks/" in path:
                assert response.status_code in (200, 201, 202, 204), response.text
            elif "/uploads/" in path:
                # PATCH is refused for what its head leaves out, once the row is found.
                assert response.status_code == {"PATCH": 415, "GET": 200}.get(method, 204)
            elif path.endswith("/rotate"):
                assert response.status_code == 201
            elif "/sensitivity" in path:
                assert (response.status_code, response.json()["code"]) == (409, "no_sensitivity")
            elif method == "DELETE" and ("keys" in path or "trust_rules" in path):
                assert response.status_code == 204
            elif method == "DELETE":
                code = "invalid_transition" if "jobs" in path else "in_use"
                assert (response.status_code, response.json()["code"]) == (409, code)
            elif path.endswith(("/resume", "/retry")):
                assert response.status_code in (200, 409)  # of a job that runs, or one that is told to pause
            else:
                assert response.status_code == 200


def test_lists_hold_the_projects_own(client: TestClient, ids: Ids, other: dict[str, str]) -> None:
    for path in ("/v1/models", "/v1/datasets", "/v1/jobs", f"/v1/jobs?model={ids['model_id']}", "/v1/webhooks"):
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
