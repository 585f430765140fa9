"""What a poll costs: `GET /v1/jobs/{id}` with a key, against a bare Starlette route with a body of the same size."""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks import servers
from benchmarks.many_jobs import KEY, databases, fill
from benchmarks.measure import Target, ratio, take_turns
from store.database import Database

TARGETS = {"SQLite": Target(most=2.5), "PostgreSQL": Target(most=6.0)}
TAIL = Target(most=5.0)
AT_ONCE = 8
STATUSES = ("running", "succeeded", "queued")
BARE = "bare Starlette"


def report(num_requests: int, turns: int) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="espalier-bench") as folder, ExitStack() as open_:
        urls = open_.enter_context(databases(Path(folder)))
        paths = {name: _jobs(url) for name, url in urls.items()}
        started = {
            name: open_.enter_context(servers.running("api.app:served", _environment(folder, url)))
            for name, url in urls.items()
        }
        size = _body_bytes(started["SQLite"], paths["SQLite"]["running"])
        bare = open_.enter_context(servers.running("benchmarks.bare:made", {"BENCH_BODY_BYTES": str(size)}))
        ways = {BARE: partial(bare.cpu_of_request, "/v1/jobs/1", _headers(), 200, num_requests)}
        for name, server in started.items():
            for status, path in paths[name].items():
                ways[f"{name}, {status}"] = partial(server.cpu_of_request, path, _headers(), 200, num_requests)
            unchanged = _headers() | {"If-None-Match": '"r9"'}
            ways[f"{name}, 304"] = partial(server.cpu_of_request, paths[name]["running"], unchanged, 304, num_requests)
        times = take_turns(ways, turns)
        tails = {
            name: server.latencies(paths[name]["running"], _headers(), 4 * num_requests, AT_ONCE)
            for name, server in started.items()
        }
    lines = [f"GET /v1/jobs/{{id}}, {size} bytes, with a key; CPU time of the server per request, {turns} turns"]
    for way, seconds in times.items():
        verdict = ""
        if way != BARE:
            cost = ratio(times, way, BARE)
            verdict = f"  {cost:5.2f} x, {TARGETS[way.partition(',')[0]].verdict(cost)}"
        lines.append(f"  {way:<24} {statistics.median(seconds) * 1e6:6.0f} us{verdict}")
    for name, taken in tails.items():
        median, tail = statistics.median(taken), taken[len(taken) * 99 // 100]
        lines.append(
            f"  {name}, {AT_ONCE} clients at once: p50 {median * 1e3:.2f} ms, p99 {tail * 1e3:.2f} ms, "
            f"{tail / median:.1f} x: {TAIL.verdict(tail / median)}"
        )
    return lines


def _jobs(url: str) -> dict[str, str]:
    """The path of one job of each status."""
    database = Database(url)
    paths = {status: f"/v1/jobs/{fill(database, 1, status)}" for status in STATUSES}
    database.close()
    return paths


def _headers() -> dict[str, str]:
    return {"Authorization": f"Bearer {KEY}"}


def _environment(folder: str, url: str) -> dict[str, str]:
    """No broker: nothing here rings."""
    return {
        "ESPALIER_DATA_DIR": folder,
        "ESPALIER_DATABASE_URL": url,
        "ESPALIER_BROKER_URL": "redis://127.0.0.1:9/0",
    }


def _body_bytes(server: servers.Server, path: str) -> int:
    asked = servers.Asked(server.port, path, _headers(), 200)
    asked.send()
    asked.close()
    return asked.body_bytes
