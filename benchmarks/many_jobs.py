"""Databases with rows to ask for: as many jobs as one likes, written in bulk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import insert, text

import migrations
from chaos.postgres import PostgresServer
from pruning.recipe import Recipe
from store.database import Database
from store.ids import new_id
from store.keys import caller_of, ensure_first_key
from store.tables import Attempt, Blob, Dataset, Job, Model, Round

KEY = "esp_a-key-for-the-benchmarks"
POOL = "cpu"
BATCH = 5000
RECIPE = Recipe.model_validate({"strategy": "lottery_ticket_reset"}).to_json()


@contextmanager
def databases(folder: Path) -> Iterator[dict[str, str]]:
    """URLs of two migrated databases that hold a project with its key, a model and a dataset."""
    with PostgresServer() as server:
        server.execute("CREATE DATABASE {}", "bench")
        urls = {"SQLite": f"sqlite:///{folder / 'espalier.db'}", "PostgreSQL": server.url("bench")}
        for url in urls.values():
            migrations.upgrade(url)
            database = Database(url)
            with database.transaction() as session:
                ensure_first_key(session, KEY)
                project_id = project(session)
                blob = {"digest": "0" * 64, "size_bytes": 1, "name": "0" * 64, "touched_at": 0.0}
                session.execute(insert(Blob).values(**blob))
                shared = {"project_id": project_id, "name": "bench", "status": "ready", "created_at": 0.0}
                shared |= {"blob_digest": "0" * 64, "attempt": 1, "failures": 0}
                session.execute(insert(Model).values(id="mdl_bench", format="architecture", spec={}, **shared))
                session.execute(insert(Dataset).values(id="ds_bench", format="npz", **shared))
            database.close()
        yield urls


def project(session: Any) -> str:
    caller = caller_of(session, KEY)
    assert caller is not None
    return caller.project_id


def fill(database: Database, num: int, status: str) -> str:
    """So many jobs of a usual size: one that was worked on has its attempt and its rounds 0 to 3. The last one's id."""
    job_id = ""
    for start in range(0, num, BATCH):
        with database.transaction() as session:
            ids = sorted(new_id("job") for _ in range(min(BATCH, num - start)))
            project_id = project(session)
            session.execute(insert(Job), [_job(job_id, project_id, status) for job_id in ids])
            if status != "queued":
                session.execute(insert(Attempt), [_attempt(job_id, status) for job_id in ids])
                # Rounds are the larger table by far; the newest jobs, which lists show, have theirs.
                newest = [_round(job_id, position) for job_id in ids[-200:] for position in range(4)]
                session.execute(insert(Round), newest)
            job_id = ids[-1]
    return job_id


def analyze(database: Database) -> None:
    """As autovacuum would have done long before."""
    if database.engine.dialect.name == "postgresql":
        with database.transaction() as session:
            session.execute(text("ANALYZE"))


def _job(job_id: str, project_id: str, status: str) -> dict[str, Any]:
    ended, running = status == "succeeded", status == "running"
    return {
        "id": job_id,
        "project_id": project_id,
        "model_id": "mdl_bench",
        "dataset_id": "ds_bench",
        "recipe": RECIPE,
        "gates": [{"metric": "accuracy", "split": "validation", "at_least": 0.9}],
        "select": "best",
        "artifacts": ["model", "masks", "ticket"],
        "pool": POOL,
        "options": {"cache": "on", "metadata": {"commit": "0123456789abcdef", "branch": "main"}},
        "status": status,
        "conclusion": "passed" if ended else None,
        "planned_rounds": 15,
        "last_position": -1 if status == "queued" else 3,
        "selected_position": 2 if ended else None,
        "attempt": 0 if status == "queued" else 1,
        "worker": "host:1" if running else None,
        "lease_until": 4e9 if running else None,
        "version": 9,
        "created_at": 1e9,
        "queued_at": 1e9,
        "started_at": None if status == "queued" else 1e9,
        "finished_at": 1.1e9 if ended else None,
    }


def _attempt(job_id: str, status: str) -> dict[str, Any]:
    ended = 1.1e9 if status == "succeeded" else None
    return {"job_id": job_id, "number": 1, "worker": "host:1", "started_at": 1e9, "ended_at": ended}


def _round(job_id: str, position: int) -> dict[str, Any]:
    row = {"job_id": job_id, "position": position, "number": position, "attempt": 1, "sparsity": 0.2}
    return row | {"report": {}, "digests": {}, "created_at": 1e9}
