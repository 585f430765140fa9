from __future__ import annotations

from collections.abc import Callable
from typing import Any

from espalier import Client, Job

from store import workers
from store.workers import Announcement

Submit = Callable[..., Job]


def test_who_works_on_what(api: Any, client: Client, worker: Any, submit: Submit) -> None:
    job = submit()
    announcement = Announcement(id="worker", pool=job["pool"], device="cpu", slots=1, hostname="host", version="1")
    with api.fleet.database.transaction() as session:
        workers.begin(session, announcement)
    [queue] = [queue for queue in client.workers()["queues"] if queue["pool"] == job["pool"]]
    assert (queue["depth"], queue["workers"]) == (1, 1)
    worker.claim(job)
    [seen] = client.workers()["data"]
    assert (seen["id"], seen["alive"], seen["state"]) == ("worker", True, "busy")
    assert job["id"] in [held["job"] for held in seen["jobs"]]
