"""A job polled from memory: what the route would answer, to whom it would answer."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from api.rate_limits import Rates
from store import jobs
from store.database import Database, now
from store.keys import add_key
from store.tables import ApiKey

Posted = Callable[..., dict[str, Any]]


def mark(client: TestClient, job_id: str) -> None:
    """Whatever is answered from memory shows that it is."""
    kept = client.app.state.services.polls.memory._kept  # type: ignore[attr-defined]
    kept[job_id] = kept[job_id]._replace(body=b"kept")


@pytest.fixture
def polled(client: TestClient, posted: Posted) -> str:
    """A queued job whose next poll comes from memory: its key was noted as used, its connection is there."""
    job_id = str(posted()["id"])
    until = time.monotonic() + 20
    while time.monotonic() < until:
        client.get(f"/v1/jobs/{job_id}")
        mark(client, job_id)
        if client.get(f"/v1/jobs/{job_id}").content == b"kept":
            return job_id
        time.sleep(0.02)
    raise AssertionError("memory never answers")


def test_it_answers_as_the_route_does(client: TestClient, polled: str) -> None:
    path = f"/v1/jobs/{polled}"
    client.app.state.services.polls.memory._kept.clear()  # type: ignore[attr-defined]
    by_route = client.get(path)
    by_memory = client.get(path)
    named = ("etag", "retry-after", "content-type", "content-length")
    assert by_memory.content == by_route.content
    assert [by_memory.headers.get(name) for name in named] == [by_route.headers.get(name) for name in named]
    assert by_memory.headers["x-request-id"].startswith("req_")
    for given, echoed in (("a-b.c", True), ("no good", False)):
        assert (client.get(path, headers={"X-Request-Id": given}).headers["x-request-id"] == given) is echoed
    mark(client, polled)
    for tag in ('"r1"', 'W/"r1"', '"x", "r1"', "*"):
        unchanged = client.get(path, headers={"If-None-Match": tag})
        assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", '"r1"')
    assert client.get(path, headers={"If-None-Match": '"r0"'}).content == b"kept"
    assert 'route="/v1/jobs/{job_id}",status="3xx"' in client.get("/metrics").text


def test_its_line_in_the_log_is_for_those_who_debug(
    client: TestClient, polled: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = f"/v1/jobs/{polled}"
    with caplog.at_level(logging.DEBUG, "api.observed"):
        assert client.get(path).content == b"kept"
        assert client.get("/v1/jobs").status_code == 200
    lines = [(line.levelname, vars(line)["path"]) for line in caplog.records if line.msg == "request"]
    assert lines == [("DEBUG", path), ("INFO", "/v1/jobs")]


def test_no_change_is_missed(client: TestClient, polled: str, posted: Posted, bench: Any, database: Database) -> None:
    path = f"/v1/jobs/{polled}"
    ahead = posted(priority=1)["id"]
    assert client.get(path).json()["queue_position"] == 2, "another job came before it, and the row is as it was"
    mark(client, polled)
    assert client.get(path).content == b"kept"
    assert bench.claim().id == ahead
    assert client.get(path).json()["queue_position"] == 1
    mark(client, polled)
    bench.claim()
    assert client.get(path).json()["status"] == "running"
    with database.transaction() as session:
        jobs.renew(session, polled, 1, 60, {"round": 0, "step": 5, "steps": 10})
    running = client.get(path).json()["progress"]
    assert running["eta_seconds"] is not None
    mark(client, polled)
    time.sleep(1.1)
    kept = client.app.state.services.polls.memory._kept  # type: ignore[attr-defined]
    etag = kept[polled].etag
    assert client.get(path, headers={"If-None-Match": etag}).status_code == 304
    assert kept[polled].body == b"kept", "that nothing has changed is true for longer than an estimate"
    assert client.get(path).json()["progress"]["eta_seconds"] > running["eta_seconds"], "it goes with the clock"


def test_only_who_may_read_is_answered(
    client: TestClient, polled: str, other: dict[str, str], database: Database, project: str
) -> None:
    path = f"/v1/jobs/{polled}"
    with database.transaction() as session:
        keys = {
            scope: add_key(session, project_id=project, name=scope, scopes=[scope])[1] for scope in ("read", "write")
        }
        session.execute(update(ApiKey).values(last_used_at=now()))
    with_key = {scope: {"Authorization": f"bearer  {key}"} for scope, key in keys.items()}
    assert client.get(path, headers=with_key["read"]).content == b"kept"
    assert client.get(path, headers=with_key["write"]).status_code == 403
    assert client.get(path, headers=other).status_code == 404
    for wrong in ("Bearer esp_unknown", "Bearer", f"Basic {keys['read']}"):
        assert client.get(path, headers={"Authorization": wrong}).status_code == 401
    with database.transaction() as session:
        session.execute(update(ApiKey).where(ApiKey.name == "read").values(revoked_at=now()))
    assert client.get(path, headers=with_key["read"]).status_code == 401
    assert client.get(path).content == b"kept", "the first key is as good as before"
    client.post(f"{path}/cancel")
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404


def test_who_waits_or_is_counted_is_answered_by_the_route(client: TestClient, polled: str) -> None:
    path = f"/v1/jobs/{polled}"
    waited = client.get(path, headers={"If-None-Match": '"r1"', "Prefer": "wait=0"})
    assert waited.headers["preference-applied"] == "wait=0"
    state = client.app.state  # type: ignore[attr-defined]
    mark(client, polled)
    state.services = dataclasses.replace(state.services, rates=Rates("100/minute", None))
    assert client.get(path).headers["ratelimit"].startswith('"key";r=99;')
