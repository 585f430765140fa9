"""Who is there, by the database's clock, and which queues nobody will come for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from sqlalchemy import Row, select, update

from store import intake, jobs, workers
from store.database import Database
from store.queue import INTAKE
from store.tables import Job, Worker
from store.workers import Announcement, Queue
from worker import sweeper
from worker.presence import Presence
from worker.sweeper import QueueWatch


def announced(database: Database, name: str, pool: str = "cpu") -> Announcement:
    worker = Announcement(id=name, pool=pool, device="cpu", slots=2, hostname="host", version="1")
    with database.transaction() as session:
        workers.begin(session, worker)
    return worker


def silence(database: Database, name: str, seconds: float) -> None:
    with database.transaction() as session:
        session.execute(update(Worker).where(Worker.id == name).values(seen_at=Worker.seen_at - seconds))


def test_who_is_silent_is_gone_and_then_forgotten(database: Database) -> None:
    here, dead, stopped, _forgotten = (announced(database, name) for name in ("here", "dead", "stopped", "forgotten"))
    silence(database, "dead", 60)
    silence(database, "forgotten", workers.KEPT_SECONDS + 1)
    with database.transaction() as session:
        workers.announce(session, stopped, "stopped")
        assert workers.forget_silent(session) == 1
    with database.reading() as session:
        found = {seen.worker.id: seen.alive for seen in workers.seen(session, 5)}
    assert found == {"here": True, "dead": False, "stopped": False}
    with database.transaction() as session:
        workers.announce(session, dead, "ready")
        workers.announce(session, here, "draining")
    with database.reading() as session:
        assert {seen.worker.id: (seen.alive, seen.worker.state) for seen in workers.seen(session, 5)} == {
            "here": (True, "draining"),
            "dead": (True, "ready"),
            "stopped": (False, "stopped"),
        }


def test_what_a_worker_holds(database: Database, submit: Callable[..., Job]) -> None:
    announced(database, "w")
    job = submit()
    with database.transaction() as session:
        assert jobs.claim(session, "cpu", "w", 60) is not None
    with database.reading() as session:
        [seen] = workers.seen(session, 5)
    [held] = seen.holdings
    assert (held.job_id, held.attempt, held.project_id) == (job.id, 1, job.project_id)
    with database.transaction() as session:
        jobs.complete(session, job.id, 1, 0, passed=True)
    with database.reading() as session:
        assert workers.seen(session, 5)[0].holdings == []


def test_queues_beside_who_serves_them(database: Database, submit: Callable[..., Job], project: str) -> None:
    submit(pool="gpu")
    submit(pool="gpu")
    announced(database, "w", "cpu")
    announced(database, "gone", "gpu")
    silence(database, "gone", 60)
    with database.transaction() as session:
        session.execute(update(Job).values(queued_at=Job.queued_at - 100))
        intake.add_model(session, project_id=project, name="m", format="architecture", spec={}, blob=None)
    with database.reading() as session:
        uploads, cpu, gpu = workers.queues(session, 5)
        assert [queue.pool for queue in workers.queues(session, 5, pools=[])] == [INTAKE, "cpu"]
    assert (uploads.pool, uploads.depth, uploads.workers) == (INTAKE, 1, 1)
    assert cpu == Queue("cpu", 0, None, 1)
    assert (gpu.pool, gpu.depth, gpu.workers) == ("gpu", 2, 0)
    assert gpu.oldest_seconds is not None
    assert 100 <= gpu.oldest_seconds < 130
    assert [queue.is_stuck(60) for queue in (uploads, cpu, gpu)] == [False, False, True]
    assert not gpu.is_stuck(200)


def test_pools_that_somebody_makes_up_crowd_out_no_served_one(
    database: Database, submit: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "MAX_QUEUES", 5)
    for number in range(workers.MAX_QUEUES + 1):
        submit(pool=f"made-up-{number}")
    submit(pool="cpu")
    announced(database, "w", "cpu")
    with database.reading() as session:
        found = workers.queues(session, 5)
    assert len(found) == workers.MAX_QUEUES + 2, "uploads, the longest-waiting, and the served one"
    assert next(queue for queue in found if queue.pool == "cpu").depth == 1


def test_a_stuck_queue_is_said_in_the_log_once_a_minute(
    database: Database, submit: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    submit(pool="gpu")
    submit(pool="cpu")
    announced(database, "w", "cpu")
    watch = QueueWatch(heartbeat_seconds=5, stuck_seconds=60)

    def said() -> list[str]:
        caplog.clear()
        watch.look(database)
        return [record.getMessage() for record in caplog.records if record.name == "sweeper"]

    assert said() == [], "not yet"
    with database.transaction() as session:
        session.execute(update(Job).values(queued_at=Job.queued_at - 100))
    [line] = said()
    assert "the queue gpu is stuck: 1 wait" in line
    assert said() == []
    monkeypatch.setattr(sweeper, "SAID_SECONDS", 0.0)  # a minute later
    assert len(said()) == 1


def test_a_heartbeat_beats_until_it_ends(database: Database) -> None:
    def row() -> Row[float, float, str] | None:
        with database.reading() as session:
            return session.execute(select(Worker.started_at, Worker.seen_at, Worker.state)).first()

    def wait(until: Callable[[Row[float, float, str]], bool]) -> Row[float, float, str]:
        deadline = time.monotonic() + 20
        while (seen := row()) is None or not until(seen):
            assert time.monotonic() < deadline, seen
            time.sleep(0.02)
        return seen

    draining = threading.Event()
    worker = Announcement(id="w", pool="cpu", device="cpu", slots=1, hostname="host", version="1")
    presence = Presence(database, worker, 0.05, draining)
    started_at, first, _ = wait(lambda seen: seen[2] == "ready")
    wait(lambda seen: seen[1] > first)
    draining.set()
    wait(lambda seen: seen[2] == "draining")
    presence.end()
    ended = row()
    assert ended is not None
    assert (ended[0], ended[2]) == (started_at, "stopped")
