"""Projects, their keys and quotas, and the log of who did what."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text, update
from starlette.testclient import TestClient

from api.app import create_app
from store.database import Database
from store.keys import add_key
from store.settings import Settings
from store.tables import ApiKey

Refused = Callable[..., dict[str, Any]]
Posted = Callable[..., dict[str, Any]]


def bearer(key: dict[str, Any] | str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key if isinstance(key, str) else key['key']}"}


@pytest.fixture
def admin(database: Database, project: str) -> dict[str, str]:
    """Of the first project, and no operator."""
    with database.transaction() as session:
        _, key = add_key(session, project_id=project, name="admin", scopes=["admin"])
    return bearer(key)


def make(client: TestClient, path: str = "keys", headers: dict[str, str] | None = None, **body: Any) -> dict[str, Any]:
    response = client.post(f"/v1/{path}", json=body, headers=headers)
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    return made


def log_of(client: TestClient, **filters: Any) -> list[tuple[str, str | None, str]]:
    """Oldest first: (action, target, outcome)."""
    response = client.get("/v1/audit_log", params={"limit": 100, **filters})
    return [(entry["action"], entry["target"], entry["outcome"]) for entry in reversed(response.json()["data"])]


def test_a_key_is_shown_once_and_does_what_its_scopes_say(client: TestClient, refused: Refused) -> None:
    made = make(client, name="reader", scopes=["read", "read"])
    assert made["key"].startswith("esp_")
    assert (made["scopes"], made["operator"], made["status"]) == (["read"], False, "active")
    assert client.get("/v1/jobs", headers=bearer(made)).status_code == 200
    refused(client.post("/v1/jobs", json={}, headers=bearer(made)), 403, "insufficient_scope")
    seen = client.get(f"/v1/keys/{made['id']}").json()
    assert seen == {name: value for name, value in made.items() if name != "key"} | {
        "last_used_at": seen["last_used_at"]
    }
    assert made["key"] not in client.get("/v1/keys").text
    assert client.patch(f"/v1/keys/{made['id']}", json={"scopes": ["write"]}).json()["scopes"] == ["write"]
    refused(client.get("/v1/jobs", headers=bearer(made)), 403, "insufficient_scope")


def test_the_last_use_is_told_after_the_answer(client: TestClient) -> None:
    made = make(client, name="k", scopes=["read"])
    assert made["last_used_at"] is None
    client.get("/v1/jobs/job_none", headers=bearer(made))  # one that is refused is a use, too
    used = client.get(f"/v1/keys/{made['id']}").json()["last_used_at"]
    assert abs(datetime.fromisoformat(used).timestamp() - time.time()) < 30


def test_a_revoked_key_opens_nothing_at_once(client: TestClient, refused: Refused) -> None:
    made = make(client, name="k", scopes=["read"])
    for _ in range(2):
        assert client.delete(f"/v1/keys/{made['id']}").status_code == 204
    refused(client.get("/v1/jobs", headers=bearer(made)), 401, "unauthorized", "header:authorization")
    assert client.get(f"/v1/keys/{made['id']}").json()["status"] == "revoked"
    refused(client.post(f"/v1/keys/{made['id']}/rotate", json={}), 422, "invalid_request", "path:key_id")
    refused(client.patch(f"/v1/keys/{made['id']}", json={"name": "x"}), 422, "invalid_request", "path:key_id")
    assert log_of(client, target=made["id"]) == [
        ("key.create", made["id"], "done"),
        ("key.revoke", made["id"], "done"),
        ("key.revoke", made["id"], "unchanged"),
    ]


def test_a_rotated_key_lives_on_for_the_overlap(client: TestClient, database: Database, refused: Refused) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    old = make(client, name="k", scopes=["read"], expires_at=tomorrow)
    new = make(client, f"keys/{old['id']}/rotate", overlap_seconds=60)
    assert (new["name"], new["scopes"]) == ("k", ["read"])
    span = datetime.fromisoformat(new["expires_at"]) - datetime.fromisoformat(new["created_at"])
    assert abs(span.total_seconds() - 86400) < 60
    for key in (old, new):
        assert client.get("/v1/jobs", headers=bearer(key)).status_code == 200
    seen = client.get(f"/v1/keys/{old['id']}").json()
    assert seen["replaced_by"] == new["id"]
    assert 0 < datetime.fromisoformat(seen["expires_at"]).timestamp() - time.time() < 70
    refused(client.post(f"/v1/keys/{old['id']}/rotate", json={}), 422, "invalid_request", "path:key_id")
    with database.transaction() as session:
        session.execute(update(ApiKey).where(ApiKey.id == old["id"]).values(expires_at=1.0))
    refused(client.get("/v1/jobs", headers=bearer(old)), 401, "unauthorized", "header:authorization")
    make(client, f"keys/{new['id']}/rotate", overlap_seconds=0)
    refused(client.get("/v1/jobs", headers=bearer(new)), 401, "unauthorized", "header:authorization")


def test_of_two_rotations_at_once_one_is_refused(client: TestClient) -> None:
    old = make(client, name="k", scopes=["read"])
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: client.post(f"/v1/keys/{old['id']}/rotate", json={}), range(4)))
    assert sorted(answer.status_code for answer in answers) == [201, 422, 422, 422]


def test_an_admin_does_not_become_an_operator(
    client: TestClient, admin: dict[str, str], refused: Refused, subtests: pytest.Subtests
) -> None:
    operators = [key["id"] for key in client.get("/v1/keys").json()["data"] if key["operator"]]
    [own] = client.get("/v1/projects", headers=admin).json()["data"]
    for method, path, body in [
        ("POST", "projects", {"name": "p"}),
        ("PATCH", f"projects/{own['id']}", {"quotas": {"live_jobs": 1}}),
        ("DELETE", f"projects/{own['id']}", None),
        ("POST", "keys", {"name": "k", "scopes": ["admin"], "operator": True}),
        ("POST", f"keys/{operators[0]}/rotate", {}),
        ("PATCH", f"keys/{operators[0]}", {"name": "mine"}),
        ("DELETE", f"keys/{operators[0]}", None),
    ]:
        with subtests.test(method=method, path=path):
            response = client.request(method, f"/v1/{path}", json=body, headers=admin)
            assert refused(response, 403, "insufficient_scope")["scope"] == "operator"
    assert client.patch(f"/v1/projects/{own['id']}", json={"name": "ours"}, headers=admin).json()["name"] == "ours"


def test_an_operator_makes_projects_with_keys_and_sees_nothing_of_theirs(
    client: TestClient, admin: dict[str, str], refused: Refused, posted: Posted
) -> None:
    project = make(client, "projects", name="team")
    made = make(client, name="team's first", scopes=["admin"], project=project["id"])
    theirs = bearer(made)
    assert [row["id"] for row in client.get("/v1/projects", headers=theirs).json()["data"]] == [project["id"]]
    assert len(client.get("/v1/projects").json()["data"]) == 2
    assert client.get(f"/v1/keys?project={project['id']}").json()["data"][0]["id"] == made["id"]
    job = posted()
    refused(client.get(f"/v1/jobs/{job['id']}", headers=theirs), 404, "not_found")
    for headers in (theirs, admin):
        none = {"name": "k", "scopes": ["read"], "project": "prj_none"}
        own = client.get("/v1/projects", headers=headers).json()["data"][0]["id"]
        [another] = [row["id"] for row in client.get("/v1/projects").json()["data"] if row["id"] != own]
        for unseen in (none, {**none, "project": another}):
            refused(client.post("/v1/keys", json=unseen, headers=headers), 422, "not_found", "/project")
    assert log_of(client, action="project.create") == [("project.create", project["id"], "done")]
    entries = client.get("/v1/audit_log", headers=theirs).json()["data"]
    assert [entry["action"] for entry in entries] == ["key.create"], "what was done in it is told in it"
    assert entries[0]["key"] != made["id"]


def test_a_project_is_deleted_when_it_holds_nothing(client: TestClient, refused: Refused) -> None:
    project = make(client, "projects", name="team")
    theirs = bearer(make(client, name="k", scopes=["admin"], project=project["id"]))
    model = client.post("/v1/models?format=architecture&architecture=lenet5", headers=theirs).json()
    refused(client.delete(f"/v1/projects/{project['id']}"), 409, "in_use")
    assert client.delete(f"/v1/models/{model['id']}", headers=theirs).status_code == 204
    assert client.delete(f"/v1/projects/{project['id']}").status_code == 204
    refused(client.get("/v1/jobs", headers=theirs), 401, "unauthorized", "header:authorization")
    refused(client.get(f"/v1/projects/{project['id']}"), 404, "not_found")


def test_what_is_wrong_with_a_key(client: TestClient, refused: Refused, subtests: pytest.Subtests) -> None:
    for changes, param in [
        ({"scopes": []}, "/scopes"),
        ({"scopes": ["root"]}, "/scopes/0"),
        ({"name": ""}, "/name"),
        ({"name": "a\0"}, "/name"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        ({"expires_at": "2099-01-01T00:00:00"}, "/expires_at"),
        ({"digest": "0"}, "/digest"),
    ]:
        with subtests.test(changes=changes):
            response = client.post("/v1/keys", json={"name": "k", "scopes": ["read"], **changes})
            refused(response, 422, "invalid_request", param)


def test_the_log_tells_who_did_what_and_only_of_changes(
    client: TestClient, posted: Posted, refused: Refused, database: Database
) -> None:
    job = posted()
    with database.transaction() as session:
        session.execute(text("delete from audit_log"))
    headers = {"X-Request-Id": "run-7"}
    for verb in ("pause", "pause", "resume", "cancel"):
        assert client.post(f"/v1/jobs/{job['id']}/{verb}", headers=headers).status_code == 200
    refused(client.post(f"/v1/jobs/{job['id']}/resume"), 409, "invalid_transition")
    refused(client.delete(f"/v1/models/{job['model']}"), 409, "in_use")
    client.post("/v1/jobs?validate_only=true", json={"model": job["model"], "dataset": job["dataset"], "recipe": {}})
    model = client.post("/v1/models?format=architecture&architecture=lenet5").json()["id"]
    assert client.delete(f"/v1/models/{model}").status_code == 204
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert log_of(client) == [
        ("job.pause", job["id"], "done"),
        ("job.pause", job["id"], "unchanged"),
        ("job.resume", job["id"], "done"),
        ("job.cancel", job["id"], "done"),
        ("model.create", model, "done"),
        ("model.delete", model, "done"),
        ("job.delete", job["id"], "done"),
    ]
    entry = client.get(f"/v1/audit_log?action=job.cancel&target={job['id']}").json()["data"][0]
    [key] = client.get("/v1/keys").json()["data"]
    assert (entry["key"], entry["request_id"]) == (key["id"], "run-7")
    page = client.get("/v1/audit_log?limit=4").json()
    rest = client.get(f"/v1/audit_log?limit=4&after={page['next_cursor']}").json()
    assert (len(page["data"]), len(rest["data"]), rest["has_more"]) == (4, 3, False)


@pytest.fixture
def crowded(settings: Settings, client: TestClient, database: Database) -> Iterator[TestClient]:
    """One live job and 15 bytes for each project, where it has no quota of its own."""
    limited = settings.model_copy(update={"max_live_jobs": 1, "max_stored_bytes": 15})
    with TestClient(create_app(limited), headers=client.headers) as crowded:
        yield crowded


def test_quotas(crowded: TestClient, refused: Refused, body: dict[str, Any], project: str) -> None:
    """`body` stands on 7 bytes of a model and 8 of a dataset."""
    job = crowded.post("/v1/jobs", json=body).json()
    problem = refused(crowded.post("/v1/jobs", json=body), 403, "quota_exceeded")
    assert (problem["quota"], problem["limit"], problem["used"]) == ("live_jobs", 1, 2)
    assert crowded.get(f"/v1/projects/{project}").json()["usage"] == {"live_jobs": 1, "stored_bytes": 15}
    assert crowded.post(f"/v1/jobs/{job['id']}/cancel").status_code == 200
    assert crowded.post("/v1/jobs", json=body).status_code == 201
    refused(crowded.post(f"/v1/jobs/{job['id']}/retry"), 403, "quota_exceeded")
    # Content that the project has already costs nothing; what is new does, and nothing is left of it.
    again = crowded.post("/v1/models?format=architecture&architecture=lenet5")
    assert again.status_code == 201
    archive = b"PK\x03\x04" + bytes(60)
    problem = refused(crowded.post("/v1/datasets?format=npz", content=archive), 403, "quota_exceeded")
    assert (problem["quota"], problem["limit"], problem["used"]) == ("stored_bytes", 15, 79)
    assert len(crowded.get("/v1/datasets").json()["data"]) == 1
    # Where its length is told, it is refused before it is looked at; what may be content that is there already is not.
    refused(crowded.post("/v1/datasets?format=npz", content=bytes(64)), 403, "quota_exceeded")
    refused(crowded.post("/v1/datasets?format=npz", content=iter([bytes(64)])), 422, "invalid_content", "")
    refused(crowded.post("/v1/datasets?format=npz", content=bytes(8)), 422, "invalid_content", "")
    quotas = {"live_jobs": 5, "stored_bytes": 1000}
    changed = crowded.patch(f"/v1/projects/{project}", json={"quotas": quotas}).json()
    assert changed["quotas"] == quotas
    assert crowded.post("/v1/datasets?format=npz", content=archive).status_code == 201
    assert crowded.post("/v1/jobs", json=body).status_code == 201


def test_of_many_jobs_at_once_no_more_come_in_than_there_is_room_for(crowded: TestClient, body: dict[str, Any]) -> None:
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: crowded.post("/v1/jobs", json=body).status_code, range(4)))
    assert sorted(answers) == [201, 403, 403, 403]
