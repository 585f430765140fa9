"""Prometheus metrics: what this process has answered, and what all of the service has done, read from the database.

Every API process shows the same numbers of the whole service, and its own of HTTP: `docs/operations.md`.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from store import counters, workers
from store.database import Database

BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
"""From a poll to an upload of gigabytes, which is one request, too."""

_COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "attempts_ended": ("Attempts at jobs that have ended, by the reason's code", ("reason",)),
    "jobs_ended": ("Jobs that have ended", ("status", "conclusion")),
    "lease_losses": ("Leases that ran out because their worker went silent", ("of",)),
    "rounds": ("Rounds that were stored", ("pool",)),
    "round_seconds": ("Seconds of stored rounds, by phase", ("pool", "phase")),
    "rounds_adopted": ("Rounds that a job had from another, computed once for both", ("pool",)),
    "rounds_awaited": ("Times that a job was let wait for a round that another computed", ("pool",)),
    "round_disagreements": ("Rounds that were computed again and came out otherwise", ("pool",)),
    "webhook_attempts": ("Attempts to send a message to a webhook", ("outcome",)),
}


class HttpMetrics:
    """Of one process, since its start; safe to share between threads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._seconds = Histogram(
            "espalier_http_request_seconds",
            "From the head of a request to the last byte of its answer, in this API process",
            ("method", "route", "status"),
            buckets=BUCKETS_SECONDS,
            registry=self.registry,
        )

    def observe(self, method: str, route: str, status: str, seconds: float) -> None:
        """All three are of few values: a template, not a path; 2xx, not 204."""
        self._seconds.labels(method, route, status).observe(seconds)


class Scrape(Collector):
    """Of the whole service, in one snapshot of the database, taken when it is asked; then of this process."""

    def __init__(self, database: Database, heartbeat_seconds: float, http: HttpMetrics) -> None:
        self._database, self._heartbeat_seconds, self._http = database, heartbeat_seconds, http

    def collect(self) -> Iterator[Metric]:
        yield from self._of_service()
        yield from self._http.registry.collect()

    def _of_service(self) -> Iterator[Metric]:
        with self._database.reading() as session:
            queues = workers.queues(session, self._heartbeat_seconds)
            counted = counters.read(session)
        depth = GaugeMetricFamily("espalier_queue_depth", "Rows that wait for a worker", labels=["pool"])
        oldest = GaugeMetricFamily(
            "espalier_queue_oldest_seconds", "Since when the oldest of them waits; 0: none", labels=["pool"]
        )
        alive = GaugeMetricFamily("espalier_workers_alive", "Living workers that serve the pool", labels=["pool"])
        for queue in queues:
            depth.add_metric([queue.pool], queue.depth)
            oldest.add_metric([queue.pool], queue.oldest_seconds or 0.0)
            alive.add_metric([queue.pool], queue.workers)
        yield from (depth, oldest, alive)
        for name, (about, labels) in _COUNTERS.items():
            family = CounterMetricFamily(f"espalier_{name}", about, labels=labels)
            for row in counted:
                if row.name == name:
                    family.add_metric([row.labels[label] for label in labels], row.value)
            yield family
