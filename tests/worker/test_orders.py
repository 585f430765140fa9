"""What a user or an operator orders while a job runs: it is done within seconds, and nothing is lost by it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from fleet import SMALL, Fleet
from sqlalchemy import func, select

from chaos.processes import descendants_of, is_alive
from store import checkpoints, counters, jobs, workers
from store.tables import Attempt, Job, Round, Worker
from store.transitions import Trigger


def test_a_drained_worker_gives_its_job_back_at_once(fleet: Fleet) -> None:
    worker, _sweeper = fleet.start("worker"), fleet.start("sweeper")
    model, dataset = fleet.given(fleet.add_model()), fleet.given(fleet.add_dataset())
    long = {**SMALL, "training": {**SMALL["training"], "steps": 100_000}}
    job = fleet.submit(model, dataset, long)
    fleet.wait(lambda: fleet._fetch(job), lambda now: now.progress is not None)
    children = descendants_of(worker.pid)
    worker.terminate()
    assert worker.wait(8) == 0
    after = fleet._fetch(job)
    assert (after.status, after.failures) == ("queued", 0)
    assert not any(is_alive(child) for child in children)
    with fleet.database.reading() as session:
        assert session.scalars(select(Attempt.reason)).all() == ["the worker shut down"]
        assert session.scalars(select(Worker.state)).all() == ["stopped"]


def test_cancel_frees_the_worker_within_seconds(fleet: Fleet) -> None:
    fleet.start("worker")
    model, dataset = fleet.given(fleet.add_model()), fleet.given(fleet.add_dataset())
    job = fleet.submit(model, dataset, {**SMALL, "training": {**SMALL["training"], "steps": 100_000}})
    fleet.wait(lambda: fleet._fetch(job), lambda now: now.progress is not None)
    started = time.monotonic()
    with fleet.database.transaction() as session:
        assert jobs.order(session, fleet.project, job.id, Trigger.CANCEL).status == "canceling"
    after = fleet.finished(job)
    assert (after.status, after.conclusion) == ("canceled", "canceled")
    assert time.monotonic() - started < 4
    assert_the_log_tells_of(after, fleet)
    next_job = fleet.submit(model, dataset)
    assert fleet.finished(next_job).conclusion == "passed"
    assert_what_was_done_is_counted(fleet)


def assert_the_log_tells_of(job: Job, fleet: Fleet) -> None:
    """Every line of the worker, Celery's own too, is an object; those about the job name it."""
    with fleet.database.reading() as session:
        [seen] = workers.seen(session, fleet.settings.heartbeat_seconds)
    assert (seen.alive, seen.worker.state, seen.worker.pool) == (True, "ready", job.pool)
    lines = [json.loads(line) for line in fleet.log("worker").splitlines()]
    about = [line for line in lines if line.get("job_id") == job.id]
    assert {(line["attempt"], line["worker"], line["part"]) for line in about} == {(1, seen.worker.id, "worker")}


def assert_what_was_done_is_counted(fleet: Fleet) -> None:
    with fleet.database.reading() as session:
        counted = {(row.name, *row.labels.values()): row.value for row in counters.read(session)}
        num_rounds = session.scalars(select(func.count()).select_from(Round)).one()
    assert counted["attempts_ended", "canceled"] == counted["attempts_ended", "completed"] == 1
    assert counted["rounds", fleet.settings.worker_pool] == num_rounds >= 4
    assert counted["round_seconds", "train", fleet.settings.worker_pool] > 0


ALL_THAT_IS_CARRIED = {
    "between_rounds": {"weights": "rewind", "step": 5, "learning_rate": "rewind", "optimizer_state": "keep"},
    "finally": {"weights": "rewind", "train": True},
}
"""From round to round: round 0's weights at a step, what it has learnt (distilled), the optimiser's state."""


@pytest.mark.parametrize("changes", [{}, ALL_THAT_IS_CARRIED], ids=["reset", "all that is carried"])
def test_a_paused_job_goes_on_where_it_was(changes: dict[str, Any], fleet: Fleet) -> None:
    fleet.start("worker")
    model, dataset = fleet.given(fleet.add_model()), fleet.given(fleet.add_dataset())
    training = {**SMALL["training"], "steps": 1500, "distillation": {} if changes else None}
    slow = {**SMALL, "stop": {"rounds": 2}, "training": training, **changes}
    plain = fleet.finished(fleet.submit(model, dataset, slow))
    job = fleet.submit(model, dataset, slow)
    fleet.wait(lambda: fleet._fetch(job), lambda now: now.last_position >= 0)
    with fleet.database.transaction() as session:
        jobs.order(session, fleet.project, job.id, Trigger.PAUSE)
    paused = fleet.wait(lambda: fleet._fetch(job), lambda now: now.status not in ("running", "pausing"))
    assert (paused.status, paused.attempt, paused.failures) == ("paused", 1, 0)
    assert 0 <= paused.last_position < 2
    with fleet.database.reading() as session:
        saved = checkpoints.find(session, job.id, paused.last_position + 1)
    with fleet.database.transaction() as session:
        jobs.order(session, fleet.project, job.id, Trigger.RESUME)
    fleet.ring()
    ended = fleet.finished(job)
    assert ended.attempt == 2
    assert fleet.digests(ended) == fleet.digests(plain)
    with fleet.database.reading() as session:
        [resumed] = [e.data for e in jobs.events(session, job.id) if e.type == "checkpoint.resumed"]
    assert saved is not None
    assert resumed == {"attempt": 2, "position": saved.position, "step": saved.step}
