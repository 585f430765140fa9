"""max_failures, queue_timeout_seconds and deadline_seconds, from the POST to what the job says at its end."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from store import sweeps
from store.leases import Fenced
from store.tables import Job

Posted = Callable[..., dict[str, Any]]


def sweep(bench: Any) -> None:
    with bench.database.transaction() as session:
        sweeps.expire_leases(session)
        sweeps.expire_deadlines(session)


def fell_silent(bench: Any, job: Job) -> None:
    with bench.database.transaction() as session:
        session.execute(update(Job).where(Job.id == job.id).values(lease_until=1.0))
    sweep(bench)


def test_failures_in_a_row_are_counted_up_to_their_limit(client: TestClient, posted: Posted, bench: Any) -> None:
    path = f"/v1/jobs/{posted(max_failures=2)['id']}"
    fell_silent(bench, bench.claim())
    job = bench.claim()
    bench.store_round(job, 0, 0.9, 0.0)
    fell_silent(bench, job)  # the first in a row, again: a round was stored in between
    assert client.get(path).json()["status"] == "queued"
    fell_silent(bench, bench.claim())
    ended = client.get(path).json()
    assert (ended["status"], ended["conclusion"], ended["failures"], len(ended["attempts"])) == (
        "failed",
        "error",
        2,
        3,
    )
    assert (ended["error"]["code"], ended["error"]["retryable"]) == ("worker_lost", True)
    assert "2 attempts in a row" in ended["error"]["message"]
    assert len(client.get(f"{path}/rounds").json()["data"]) == 1, "what was completed is kept"


def test_a_queue_timeout_counts_each_wait_and_no_pause(client: TestClient, posted: Posted, bench: Any) -> None:
    path = f"/v1/jobs/{posted(queue_timeout_seconds=1)['id']}"
    client.post(f"{path}/pause")
    time.sleep(1.1)
    sweep(bench)
    assert client.get(path).json()["status"] == "paused"
    client.post(f"{path}/resume")
    sweep(bench)
    assert client.get(path).json()["status"] == "queued", "its wait has begun anew"
    time.sleep(1.1)
    sweep(bench)
    ended = client.get(path).json()
    assert (ended["status"], ended["conclusion"], ended["error"]["code"]) == ("failed", "timed_out", "queue_timeout")
    assert re.search(r"queue_timeout_seconds \(1\) passed .* waited \d\.\d s", ended["error"]["message"])
    retry = client.post(f"{path}/retry").json()
    sweep(bench)
    assert client.get(f"/v1/jobs/{retry['id']}").json()["status"] == "queued"


def test_a_deadline_counts_from_the_post_whatever_the_job_does(client: TestClient, posted: Posted, bench: Any) -> None:
    paths = [f"/v1/jobs/{posted(deadline_seconds=0.4)['id']}" for _ in range(3)]
    running = bench.claim()
    bench.store_round(running, 0, 0.9, 0.0)
    client.post(f"{paths[1]}/pause")
    time.sleep(0.45)
    sweep(bench)
    for path in paths:  # running, paused, queued
        ended = client.get(path).json()
        assert (ended["status"], ended["conclusion"]) == ("failed", "timed_out")
        assert ended["error"]["code"] == "deadline_exceeded"
        assert re.search(r"deadline_seconds \(0\.4\) passed .* now \d\.\d s old", ended["error"]["message"])
    assert len(client.get(f"{paths[0]}/rounds").json()["data"]) == 1
    with pytest.raises(Fenced):
        bench.complete(running, 0)
    retry = client.post(f"{paths[0]}/retry").json()
    sweep(bench)
    assert client.get(f"/v1/jobs/{retry['id']}").json()["status"] == "queued", "its time begins anew"
