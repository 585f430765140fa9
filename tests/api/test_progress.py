"""How a job is followed: long polls, and events as a stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

Posted = Callable[..., dict[str, Any]]
Refused = Callable[..., dict[str, Any]]
STREAM = {"Accept": "text/event-stream"}


def wait(etag: str, seconds: int) -> dict[str, str]:
    return {"If-None-Match": etag, "Prefer": f"respond-async, wait={seconds}"}


def test_a_long_poll_is_answered_by_the_change(client: TestClient, posted: Posted, bench: Any) -> None:
    path = f"/v1/jobs/{posted()['id']}"
    first = client.get(path)
    assert (first.headers["etag"], first.headers["retry-after"]) == ('"r1"', "2")
    timer = threading.Timer(0.7, bench.claim)
    timer.start()
    began_at = time.monotonic()
    second = client.get(path, headers=wait('"r1"', 20))
    timer.join()
    assert 0.5 < time.monotonic() - began_at < 10
    assert (second.status_code, second.json()["status"], second.headers["etag"]) == (200, "running", '"r2"')
    assert second.headers["preference-applied"] == "wait=20"


def test_who_waits_for_nothing_is_told_so(client: TestClient, posted: Posted, refused: Refused) -> None:
    job = posted()
    path = f"/v1/jobs/{job['id']}"
    began_at = time.monotonic()
    unchanged = client.get(path, headers=wait('"r1"', 1))
    assert 1 <= time.monotonic() - began_at < 10
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", '"r1"')
    assert unchanged.headers["preference-applied"] == "wait=1"
    began_at = time.monotonic()
    for headers in (wait('"r0"', 30), {"Prefer": "wait=30"}, wait('"r1"', 0), {"Prefer": "wait=x, wait"}):
        client.get(path, headers=headers)
    client.post(f"{path}/cancel")
    ended = client.get(path, headers=wait('"r2"', 30))
    assert (ended.status_code, "retry-after" in ended.headers) == (304, False), "a job that has ended is not waited for"
    refused(client.get("/v1/jobs/job_0", headers=wait('"r1"', 30)), 404, "not_found")
    assert time.monotonic() - began_at < 10


def test_events_as_a_stream(client: TestClient, posted: Posted, refused: Refused) -> None:
    """Of a job that has ended: the whole stream is there at once."""
    path = f"/v1/jobs/{posted()['id']}"
    for verb in ("pause", "resume", "cancel"):
        client.post(f"{path}/{verb}")
    listed = client.get(f"{path}/events").json()["data"]
    streamed = client.get(f"{path}/events?limit=3", headers=STREAM)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    frames = streamed.text.strip().split("\n\n")[1:]
    assert [frame.split("\n")[:2] for frame in frames] == [
        [f"id: {number}", f"event: job.{status}"]
        for number, status in enumerate(("queued", "paused", "queued", "canceled"), start=1)
    ]
    assert f'"sequence": {listed[-1]["sequence"]}' in frames[-1]
    later = client.get(f"{path}/events", headers=STREAM | {"Last-Event-ID": "3"}).text
    assert "id: 4\n" in later
    assert "id: 3\n" not in later
    assert client.get(f"{path}/events", headers=STREAM | {"Last-Event-ID": "4"}).status_code == 204
    for wrong in ("x", "-1", "1" * 30):
        response = client.get(f"{path}/events", headers=STREAM | {"Last-Event-ID": wrong})
        refused(response, 422, "invalid_request", "header:last-event-id")
    refused(client.get("/v1/jobs/job_0/events", headers=STREAM), 404, "not_found")


def test_a_stream_goes_on_with_the_job_and_beats(
    client: TestClient, posted: Posted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.routes.job_progress.HEARTBEAT_SECONDS", 0.2)
    path = f"/v1/jobs/{posted()['id']}"
    timer = threading.Timer(1.0, client.post, [f"{path}/cancel"])
    timer.start()
    streamed = client.get(f"{path}/events", headers=STREAM).text
    timer.join()
    assert streamed.count(": still here\n\n") >= 2
    assert streamed.rstrip().split("\n")[-2] == "event: job.canceled"
    monkeypatch.setattr("api.routes.job_progress.STREAM_SECONDS", 0.5)
    open_one = f"/v1/jobs/{posted()['id']}/events"
    assert "job.queued" in client.get(open_one, headers=STREAM).text, "a long stream ends, to be taken up again"


def test_a_job_is_changed(client: TestClient, posted: Posted, refused: Refused) -> None:
    path = f"/v1/jobs/{posted(metadata={'a': '1'}, priority=1)['id']}"
    changed = client.patch(path, json={"metadata": {"a": None, "b": "2"}, "priority": 7}).json()
    assert (changed["metadata"], changed["priority"]) == ({"b": "2"}, 7)
    assert client.get(path).headers["etag"] == '"r2"'
    client.patch(path, json={})
    assert client.get(path).headers["etag"] == '"r2"'
    refused(client.patch(path, json={"status": "running"}), 422, "invalid_request", "/status")
    refused(client.patch(path, json={"priority": 101}), 422, "invalid_request", "/priority")
    too_many = {"metadata": {str(number): "x" for number in range(16)}}
    refused(client.patch(path, json=too_many), 422, "invalid_request", "/metadata")
    client.post(f"{path}/cancel")
    problem = refused(client.patch(path, json={"priority": 1}), 409, "invalid_transition", "/priority")
    assert problem["allowed"] == ["retry"]
    assert client.patch(path, json={"metadata": {"b": None}}).json()["metadata"] == {}


def test_jobs_are_filtered(client: TestClient, posted: Posted, bench: Any, refused: Refused) -> None:
    first, second, third = (posted(metadata={"n": n, "all": "yes"}) for n in "123")
    client.post(f"/v1/jobs/{first['id']}/cancel")

    def ids(query: str) -> list[str]:
        response = client.get(f"/v1/jobs?{query}")
        assert response.status_code == 200, response.text
        return [job["id"] for job in response.json()["data"]]

    assert ids("metadata[n]=2") == [second["id"]]
    assert ids("metadata%5Ball%5D=yes&metadata[n]=3") == [third["id"]]
    assert ids("metadata[n]=2&metadata[n]=3") == []
    assert ids("metadata[all]=yes&limit=2") == [third["id"], second["id"]]
    assert ids(f"metadata[all]=yes&limit=2&after={second['id']}") == [first["id"]]
    assert ids("conclusion=canceled&conclusion=passed") == [first["id"]]
    assert ids("status=queued&status=running&metadata[n]=1") == []
    assert ids(f"dataset={first['dataset']}&model={first['model']}") == [third["id"], second["id"], first["id"]]
    assert ids("dataset=ds_0") == []
    assert ids(f"created_after={first['created_at']}&created_before={third['created_at']}") == [second["id"]]
    client.patch(f"/v1/jobs/{third['id']}", json={"metadata": {"n": "9"}})
    assert ids("metadata[n]=3") == []
    assert ids("metadata[n]=9") == [third["id"]]
    for query, param in [
        ("created_after=2026-01-01T00:00:00", "query:created_after"),
        ("conclusion=good", "query:conclusion"),
        ("metadata[]=x", "query:metadata[]"),
        ("metadata[a]=%00", "query:metadata[a]"),
        ("&".join(f"metadata[{n}]=x" for n in range(17)), "query:metadata"),
    ]:
        refused(client.get(f"/v1/jobs?{query}"), 422, "invalid_request", param)
