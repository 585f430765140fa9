"""An ended job made again: all that was asked for, nothing of what became of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from redis import Redis
from starlette.testclient import TestClient

from api.schemas import JobRequest
from store import jobs
from store.transitions import Trigger

Refused = Callable[..., dict[str, Any]]
Posted = Callable[..., dict[str, Any]]

ASKED: dict[str, Any] = {
    "recipe": {"strategy": "dropnet", "training": {"epochs": 3}, "seed": 7},
    "gates": [{"metric": "accuracy", "split": "validation", "op": ">=", "value": 0.9}],
    "select": "best",
    "pool": "gpu-1",
    "priority": 7,
    "queue_timeout_seconds": 60,
    "deadline_seconds": 3600,
    "max_failures": 5,
    "expires_in_seconds": 3600,
    "keep_rounds": "all",
    "artifacts": ["model", "sparse"],
    "cache": "off",
    "metadata": {"sha": "1a2b3c"},
}
LIFE = {
    "id",
    "status",
    "done",
    "conclusion",
    "retried_from",
    "progress",
    "queue_position",
    "waiting_for",
    "attempts",
    "failures",
} | {*("selected_round", "error", "determinism", "created_at", "started_at", "finished_at", "expires_at")}
"""Fields that are each job's own."""


def test_all_fields_of_a_request_are_asked_for_here() -> None:
    assert ASKED.keys() | {"model", "dataset"} == JobRequest.model_fields.keys()


def test_a_retry_is_asked_for_the_same_and_lives_anew(client: TestClient, posted: Posted, bench: Any) -> None:
    first = posted(**ASKED)
    job = bench.claim("gpu-1")
    bench.store_round(job, 0, 0.9, 0.0)
    with bench.database.transaction() as session:
        jobs.fail(session, job.id, job.attempt, {"code": "diverged", "message": "step 3", "retryable": False})
    failed = client.get(f"/v1/jobs/{first['id']}").json()

    with Redis.from_url(bench.settings.broker_url) as broker:
        before = broker.llen("gpu-1")
        response = client.post(f"/v1/jobs/{first['id']}/retry")
        assert broker.llen("gpu-1") == before + 1
    assert response.status_code == 201
    retry = response.json()
    assert response.headers["location"] == f"/v1/jobs/{retry['id']}"
    assert client.get(f"/v1/jobs/{retry['id']}").json() == retry
    assert retry["retried_from"] == first["id"]
    assert {key: value for key, value in retry.items() if key not in LIFE} == {
        key: value for key, value in first.items() if key not in LIFE
    }
    fresh = LIFE - {"id", "retried_from", "created_at"}
    assert {key: retry[key] for key in fresh} == {key: first[key] for key in fresh}, "as when the first was new"
    assert retry["created_at"] > first["created_at"]
    assert client.get(f"/v1/jobs/{first['id']}").json() == failed, "the first is as it was"
    assert client.get(f"/v1/jobs/{retry['id']}/rounds").json()["data"] == []
    assert bench.claim("gpu-1").id == retry["id"]


def test_it_is_repeated_while_it_lives_and_made_anew_after(client: TestClient, posted: Posted, bench: Any) -> None:
    path = f"/v1/jobs/{posted()['id']}"
    client.post(f"{path}/cancel")
    made = client.post(f"{path}/retry")
    again = client.post(f"{path}/retry")
    assert (made.status_code, again.status_code) == (201, 200)
    assert again.json() == made.json()
    retry = f"/v1/jobs/{made.json()['id']}"
    assert bench.claim().id == made.json()["id"]
    running = client.post(f"{path}/retry")
    assert (running.status_code, running.json()["id"], running.json()["status"]) == (200, made.json()["id"], "running")

    client.post(f"{retry}/cancel")
    assert client.post(f"{path}/retry").json()["status"] == "canceling", "not ended yet"
    with bench.database.transaction() as session:
        jobs.give_back(session, made.json()["id"], 1, Trigger.STOP, "stopped")
    second = client.post(f"{path}/retry")
    assert second.status_code == 201
    assert second.json()["id"] != made.json()["id"]
    assert second.json()["retried_from"] == made.json()["retried_from"]
    # A retry that has ended is retried like any other job.
    third = client.post(f"{retry}/retry")
    assert (third.status_code, third.json()["retried_from"]) == (201, made.json()["id"])


def test_of_many_at_once_one_makes_it(client: TestClient, posted: Posted) -> None:
    for _ in range(3):
        path = f"/v1/jobs/{posted()['id']}"
        client.post(f"{path}/cancel")
        with ThreadPoolExecutor(4) as threads:
            answers = [asked.result() for asked in [threads.submit(client.post, f"{path}/retry") for _ in range(4)]]
        assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 201]
        assert len({answer.json()["id"] for answer in answers}) == 1


def test_a_job_that_has_not_ended_is_not_retried(
    client: TestClient, posted: Posted, bench: Any, refused: Refused
) -> None:
    path = f"/v1/jobs/{posted()['id']}"

    def allowed(verb: str) -> list[str]:
        found: list[str] = refused(client.post(f"{path}/{verb}"), 409, "invalid_transition")["allowed"]
        return found

    assert allowed("retry") == ["cancel", "pause"]
    client.post(f"{path}/pause")
    assert allowed("retry") == ["cancel", "resume"]
    client.post(f"{path}/resume")
    job = bench.claim()
    assert allowed("retry") == ["cancel", "pause"]
    client.post(f"{path}/pause")
    assert allowed("retry") == ["cancel"]
    client.post(f"{path}/cancel")
    assert allowed("retry") == []
    assert len(client.get("/v1/jobs").json()["data"]) == 1
    bench.store_round(job, 0, 0.9, 0.0)
    bench.complete(job, 0)
    assert [allowed(verb) for verb in ("cancel", "pause", "resume")] == [["retry"]] * 3
