"""Who works on what: of one's own project by name, of others' that it is work."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import update
from starlette.testclient import TestClient

from store import workers
from store.database import Database
from store.queue import INTAKE
from store.settings import Settings
from store.tables import Worker
from store.workers import Announcement

Posted = Callable[..., dict[str, Any]]


def announce(database: Database, settings: Settings, name: str, silent_seconds: float = 0) -> None:
    worker = Announcement(
        id=name, pool=settings.default_pool, device="cuda", slots=2, hostname="host-1", version="0.1.0"
    )
    with database.transaction() as session:
        workers.begin(session, worker)
        session.execute(update(Worker).where(Worker.id == name).values(seen_at=Worker.seen_at - silent_seconds))


def test_a_worker_is_shown_with_what_it_does(
    client: TestClient, posted: Posted, bench: Any, settings: Settings, database: Database, other: dict[str, str]
) -> None:
    announce(database, settings, "worker-1")
    announce(database, settings, "worker-0", silent_seconds=60)
    job = posted()
    assert client.get("/v1/workers").json()["data"][0]["state"] == "idle"
    bench.claim()
    answer = client.get("/v1/workers").json()
    assert (answer["object"], answer["has_more"]) == ("list", False)
    alive, gone = answer["data"]
    [held] = alive.pop("jobs")
    assert (held["job"], held["attempt"]) == (job["id"], 1)
    assert held["since"] == client.get(f"/v1/jobs/{job['id']}").json()["attempts"][0]["started_at"]
    assert alive.pop("started_at") <= alive.pop("seen_at")
    assert alive == {
        "id": "worker-1",
        "object": "worker",
        "pool": settings.default_pool,
        "device": "cuda",
        "slots": 2,
        "hostname": "host-1",
        "version": "0.1.0",
        "extras": [],
        "alive": True,
        "state": "busy",
        "busy_slots": 1,
    }
    assert (gone["id"], gone["alive"], gone["state"], gone["jobs"]) == ("worker-0", False, "silent", [])

    theirs = client.get("/v1/workers", headers=other)
    assert job["id"] not in theirs.text
    [busy, _] = theirs.json()["data"]
    assert (busy["state"], busy["busy_slots"], busy["jobs"]) == ("busy", 1, [])


def test_a_stuck_queue_is_seen_by_those_who_wait_in_it(
    client: TestClient, posted: Posted, settings: Settings, database: Database, other: dict[str, str]
) -> None:
    announce(database, settings, "worker-1")
    posted(pool="nobody-serves-it")
    posted()
    time.sleep(0.01)
    queues = {queue.pop("pool"): queue for queue in client.get("/v1/workers").json()["queues"]}
    assert queues.keys() == {INTAKE, settings.default_pool, "nobody-serves-it"}
    stuck = queues["nobody-serves-it"]
    assert (stuck["depth"], stuck["workers"]) == (1, 0)
    assert stuck["oldest_seconds"] > 0
    assert queues[settings.default_pool]["workers"] == queues[INTAKE]["workers"] == 1
    assert queues[INTAKE]["oldest_seconds"] is None
    theirs = client.get("/v1/workers", headers=other).json()["queues"]
    assert [queue["pool"] for queue in theirs] == [INTAKE, settings.default_pool], "not the name that somebody made up"
