"""The database goes away while a job runs and comes back: the job ends once, with the result it would have had."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fleet import SMALL, Fleet
from postgres import PostgresServer
from pydantic import SecretStr
from sqlalchemy import select

from store import jobs
from store.blobs import open_blobs
from store.database import Database
from store.keys import caller_of, ensure_first_key
from store.settings import Settings
from store.tables import Attempt, Job

KEY = "esp_a-key-of-a-server-that-dies"
SLOW = {**SMALL, "training": {**SMALL["training"], "steps": 300}}


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """Its own, to be killed: other tests go on with theirs."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def fleet(server: PostgresServer, tmp_path: Path, broker_url: str) -> Iterator[Fleet]:
    pool = f"pool-{tmp_path.name}"
    with ExitStack() as stack:
        settings = Settings(
            data_dir=tmp_path,
            database_url=stack.enter_context(server.database()),
            broker_url=broker_url,
            api_key=SecretStr(KEY),
            default_pool=pool,
            worker_pool=pool,
            lease_seconds=6,
            renew_seconds=0.5,
            sweep_seconds=0.3,
        )
        database = Database(settings.database)
        stack.callback(database.close)
        with database.transaction() as session:
            ensure_first_key(session, KEY)
            caller = caller_of(session, KEY)
        assert caller is not None
        fleet = Fleet(settings, database, open_blobs(settings), caller.project_id)
        stack.callback(fleet.stop)
        yield fleet


def attempts_of(fleet: Fleet, job: Job) -> list[Attempt]:
    with fleet.database.reading() as session:
        return list(session.scalars(select(Attempt).where(Attempt.job_id == job.id).order_by(Attempt.number)))


def ends_of(fleet: Fleet, job: Job) -> list[str]:
    with fleet.database.reading() as session:
        return [event.type for event in jobs.events(session, job.id) if event.type == "job.succeeded"]


@pytest.mark.timeout(240)
def test_a_job_outlives_its_database(fleet: Fleet, server: PostgresServer) -> None:
    worker, sweeper = fleet.start("worker"), fleet.start("sweeper")
    model, dataset = fleet.given(fleet.add_model()), fleet.given(fleet.add_dataset())
    undisturbed = fleet.finished(fleet.submit(model, dataset, SLOW))
    expected = fleet.digests(undisturbed)

    # Back within the lease: nobody notices but the log.
    job = fleet.submit(model, dataset, SLOW, max_failures=100)
    for position in (0, 1):
        fleet.wait(lambda: fleet._fetch(job), lambda now, p=position: now.last_position >= p)
        server.kill()
        time.sleep(1)
        server.start()
    ended = fleet.finished(job)
    assert (ended.status, ended.conclusion) == ("succeeded", "passed")
    assert fleet.digests(ended) == expected
    assert "the database is away" in fleet.log("worker")

    # Away for longer than the lease: the attempt is given up, the next goes on behind the last stored round.
    job = fleet.submit(model, dataset, SLOW, max_failures=100)
    fleet.wait(lambda: fleet._fetch(job), lambda now: now.last_position >= 0)
    server.stop()
    fleet.wait(lambda: fleet.log("worker"), lambda log: f"{job.id} attempt 1: fenced" in log)
    server.start()
    resumed = fleet.finished(job)
    assert (resumed.status, resumed.conclusion) == ("succeeded", "passed")
    assert fleet.digests(resumed) == expected
    assert [attempt.reason for attempt in attempts_of(fleet, job)][-1] == "completed"
    assert resumed.attempt > 1

    assert ends_of(fleet, ended) == ends_of(fleet, resumed) == ["job.succeeded"], "each ended exactly once"
    assert worker.poll() is None
    assert sweeper.poll() is None


def test_a_worker_that_finds_no_database_says_so_and_ends(fleet: Fleet, server: PostgresServer) -> None:
    """Whoever keeps it starts it again; one that stayed without its supervisor would take messages and do nothing."""
    (fleet.settings.work_dir / "job_left-1").mkdir(parents=True)
    server.stop()
    worker = fleet.start("worker")
    assert worker.wait(60) != 0
    assert "worker: the database is away" in fleet.log("worker")
    server.start()
