"""What grows with the table of jobs, and should not: a page of the list, a claim, a sweep.

By the clock, since PostgreSQL works in processes of its own; each is rolled back, so that the next finds the same.
All jobs have ended but for a hundred that wait: what lives at once is bounded by those who wait for it.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy.orm import Session

from api.job_documents import job_documents
from benchmarks.many_jobs import POOL, analyze, databases, fill, project
from benchmarks.measure import Target
from store import idempotency, jobs, listing, retention, sweeps, uploads, workers
from store.database import Database
from store.tables import Job

TARGET = Target(most=1.5)
WAITING = 100


def report(sizes: Sequence[int], turns: int) -> list[str]:
    """`sizes` rise. Held against the first."""
    lines = [f"tables of {', '.join(f'{size:,}' for size in sizes)} jobs; wall time, median of {turns}"]
    with tempfile.TemporaryDirectory(prefix="espalier-bench") as folder, databases(Path(folder)) as urls:
        for name, url in urls.items():
            database = Database(url)
            taken: dict[str, list[float]] = {work: [] for work in WORK}
            for before, size in zip([0, *sizes], sizes, strict=False):
                fill(database, 0 if before else WAITING, "queued")
                fill(database, size - before, "succeeded")
                analyze(database)
                for work, do in WORK.items():
                    taken[work].append(_median_seconds(database, do, turns))
            database.close()
            for work, seconds in taken.items():
                cost = seconds[-1] / seconds[0]
                times = ", ".join(f"{one * 1e3:.2f}" for one in seconds)
                lines.append(f"  {name:<11} {work:<9} {times} ms: {cost:.2f} x, {TARGET.verdict(cost)}")
    return lines


def _median_seconds(database: Database, do: Callable[[Session], object], turns: int) -> float:
    taken = []
    for _ in range(turns + 2):
        with Session(database.engine) as session:
            session.connection()
            began_at = time.perf_counter()
            do(session)
            taken.append(time.perf_counter() - began_at)
            session.rollback()
    return statistics.median(taken[2:])


def _page(session: Session) -> None:
    rows, _ = listing.page(session, Job, project(session), None, 20)
    job_documents(session, rows)


def _claim(session: Session) -> None:
    assert jobs.claim(session, POOL, "host:2", 60) is not None


def _sweep(session: Session) -> None:
    """All of a turn of the sweeper that rows decide."""
    sweeps.expire_leases(session)
    sweeps.expire_deadlines(session)
    workers.forget_silent(session)
    sweeps.waiting_rows(session)
    workers.queues(session, 5.0)
    retention.due(session)
    idempotency.expire(session)
    uploads.expire(session)


WORK: dict[str, Callable[[Session], object]] = {
    "list page": _page,
    "claim": _claim,
    "sweep": _sweep,
}
