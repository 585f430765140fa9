"""What Prometheus scrapes, as its own parser reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from store import workers
from store.database import Database
from store.queue import INTAKE
from store.settings import Settings
from store.workers import Announcement

Posted = Callable[..., dict[str, Any]]
Refused = Callable[..., dict[str, Any]]


def scraped(client: TestClient) -> dict[tuple[str, ...], float]:
    """By name and the values of the labels, in the order of their names; without what is of the process."""
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
        if family.name.startswith("espalier_")
    }


def test_it_needs_a_key(anonymous: TestClient, refused: Refused) -> None:
    refused(anonymous.get("/metrics"), 401, "unauthorized", "header:authorization")


def test_queues_workers_attempts_and_rounds(
    client: TestClient, posted: Posted, bench: Any, settings: Settings, database: Database
) -> None:
    pool = settings.default_pool
    worker = Announcement(id="worker-1", pool=pool, device="cpu", slots=1, hostname="h", version="1")
    with database.transaction() as session:
        workers.begin(session, worker)
    posted()
    posted(pool="nobody")
    job = bench.claim()
    bench.store_round(job, 0, 0.9, 0.0)
    posted()
    before = scraped(client)
    assert before["espalier_queue_depth", pool] == 1
    assert before["espalier_queue_oldest_seconds", pool] >= 0
    assert before["espalier_workers_alive", pool] == before["espalier_workers_alive", INTAKE] == 1
    assert (before["espalier_queue_depth", "nobody"], before["espalier_workers_alive", "nobody"]) == (1, 0)
    assert not any(name.startswith("espalier_attempts_ended") for name, *_ in before)
    bench.complete(job, 0)
    after = scraped(client)
    assert after["espalier_attempts_ended_total", "completed"] == 1
    assert after["espalier_jobs_ended_total", "passed", "succeeded"] == 1
    assert not any(job.id in part for series in after for part in series), "no ids: they would be series without end"


def test_requests_are_counted_by_route_and_not_by_path(client: TestClient) -> None:
    for path in ("/v1/jobs/job_1", "/v1/jobs/job_2", "/v1/jobs", "/nothing/here", "/nothing/there", "/v1/jobs/a%2Fb"):
        client.get(path)
    client.request("BREW", "/v1/jobs")
    client.post("/v1/jobs", content=b"no JSON", headers={"Content-Type": "application/json"})
    counts = {
        series[1:]: value for series, value in scraped(client).items() if series[0].endswith("request_seconds_count")
    }
    assert counts == {
        ("GET", "/v1/jobs/{job_id}", "4xx"): 2,
        ("GET", "/v1/jobs", "2xx"): 1,
        ("GET", "unmatched", "4xx"): 3,
        ("other", "/v1/jobs", "4xx"): 1,
        ("POST", "/v1/jobs", "4xx"): 1,
    }


def test_openmetrics_is_spoken_where_it_is_asked_for(client: TestClient) -> None:
    response = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert list(openmetrics.text_string_to_metric_families(response.text))
