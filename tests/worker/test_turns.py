"""A child that says too much, or what cannot be, ends its attempt at once; nothing it said stays."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fleet import Fleet
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from store import counters, intake, jobs
from store.blobs import BlobsAway
from store.database import Database
from store.settings import Settings
from store.tables import Artifact, Attempt, Dataset, Event, Job, JobStatus, Model, Round
from store.transitions import Trigger
from worker.attempts import IntakeAttempt, JobAttempt
from worker.children import Child, Children
from worker.devices import Slot
from worker.folder import Folder
from worker.lease import Lease
from worker.messages import (
    BadMessage,
    Checkpointed,
    Exported,
    Finished,
    Metrics,
    NotExported,
    RoundDone,
    Started,
    parse,
)
from worker.room import Room
from worker.supervisor import Supervisor


@pytest.fixture
def attempt(fleet: Fleet, tmp_path: Path) -> Iterator[JobAttempt]:
    """Of a job that a worker holds, whose child is this test."""
    recipe = {"strategy": "lottery_ticket_reset", "stop": {"rounds": 3}}
    model, dataset = fleet.add_model(), fleet.add_dataset()
    fleet.submit(model, dataset, recipe, artifacts=["model", "program"])
    with fleet.database.transaction() as session:
        session.get_one(Model, model.id).blob_digest = dataset.blob_digest  # any content: no child reads it
        job = jobs.claim(session, fleet.settings.worker_pool, "w", 60)
    assert job is not None
    lease = Lease(fleet.database, fleet.settings, Job, job.id, job.attempt, threading.Event())
    with Folder(tmp_path / "attempt-1", 1000) as folder:
        yield JobAttempt(job, lease, folder, fleet.blobs, fleet.settings)


def round_done(position: int, metrics: dict[str, Any] | None = None) -> RoundDone:
    validation = {"validation": {"accuracy": 0.9, "loss": 0.1}} if metrics is None else metrics
    return RoundDone(
        position=position, number=position, sparsity=0, report=Metrics(metrics=validation), files={"model": "model"}
    )


def test_what_is_said_twice_is_refused(attempt: JobAttempt, database: Database) -> None:
    attempt.take(Started(determinism={"device": "a"}))
    with pytest.raises(BadMessage, match="started is out of turn"):
        attempt.take(Started(determinism={"device": "b"}))
    (attempt.folder.outputs / "model").write_bytes(b"weights")
    attempt.take(round_done(0))
    attempt.take(NotExported(kind="program", reason="first"))
    for again in (
        NotExported(kind="program", reason="second"),
        Exported(kind="program", position=0, file="model"),
        round_done(1),
    ):
        with pytest.raises(BadMessage, match="out of turn"):
            attempt.take(again)
    with database.reading() as session:
        types = session.scalars(select(Event.type).where(Event.job_id == attempt.job.id)).all()
        assert types.count("artifact.missing") == 1
        assert session.scalar(select(func.count()).select_from(Artifact)) == 1


def test_another_entry_than_the_awaited_one_is_refused(attempt: JobAttempt) -> None:
    """As a bad message, which ends the attempt: not as if the lease were lost, until which the job would hang."""
    for position in (1, 0, 0, 2):
        (attempt.folder.outputs / "model").write_bytes(b"weights")
        (attempt.folder.outputs / "checkpoint").write_bytes(b"weights")
        said = (round_done(position), Checkpointed(position=position, step=1, file="checkpoint"))
        if attempt._next_position == position:
            attempt.take(said[0])
            continue
        for message in said:
            with pytest.raises(BadMessage, match="out of turn"):
                attempt.take(message)


def test_a_round_whose_commit_was_not_answered_is_stored_once(
    attempt: JobAttempt, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    transaction, cut = database.transaction, iter([True])

    @contextmanager
    def cut_off() -> Iterator[Session]:
        with transaction() as session:
            yield session
            is_round = session.scalar(select(Round.position)) is not None
        if is_round and next(cut, False):
            raise OperationalError("commit", {}, ConnectionError("server closed the connection unexpectedly"))

    monkeypatch.setattr(database, "transaction", cut_off)
    monkeypatch.setattr("worker.lease.RETRY_SECONDS", 0.01)
    (attempt.folder.outputs / "model").write_bytes(b"weights")
    attempt.take(round_done(0))
    assert next(cut, None) is None
    with database.reading() as session:
        assert session.scalars(select(Round.position)).all() == [0]
        assert session.scalars(select(Event.type)).all() == ["job.queued", "job.running", "round.stored"]
        counted = {row.name: row.value for row in counters.read(session)}
    assert counted["rounds"] == 1
    (attempt.folder.outputs / "model").write_bytes(b"weights")
    attempt.take(round_done(1))


def test_a_program_that_nobody_asked_for_is_refused(attempt: JobAttempt) -> None:
    attempt.job.artifacts = ["model"]
    with pytest.raises(BadMessage, match="out of turn"):
        attempt.take(Exported(kind="program", position=0, file="model"))


def test_a_program_of_another_round_is_refused(attempt: JobAttempt) -> None:
    for position in (0, 1):
        (attempt.folder.outputs / "model").write_bytes(b"weights")
        attempt.take(round_done(position))
    with pytest.raises(BadMessage, match="not selected"):
        attempt.take(Exported(kind="program", position=0, file="model"))


@pytest.mark.parametrize("number", ["201", "9" * 40])
def test_a_round_beyond_all_recipes_is_no_message(number: str) -> None:
    line = '{"type": "round", "position": 1, "number": N, "sparsity": 0, "report": {"metrics": {}}, "files": {}}'
    with pytest.raises(BadMessage):
        parse(line.replace("N", number).encode())


@pytest.fixture
def child() -> Iterator[Child]:
    """A process that says nothing; what it is to have said is put into its messages."""
    child = Child.__new__(Child)
    child.process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], stdin=subprocess.PIPE, start_new_session=True
    )
    child.messages, child._stderr = queue.Queue(), deque()
    child._readers = [threading.Thread(target=int), threading.Thread(target=int)]
    for reader in child._readers:
        reader.start()
    yield child
    child.kill()
    child.process.wait()


def test_metrics_that_nothing_can_be_chosen_by_cost_the_attempt(
    attempt: JobAttempt, child: Child, database: Database
) -> None:
    """Not the lease: the row is given up at once, and its user is told no path and no SQL."""
    (attempt.folder.outputs / "model").write_bytes(b"weights")
    supervisor = Supervisor.__new__(Supervisor)
    supervisor.settings, supervisor.draining = attempt.settings, threading.Event()
    supervisor.room = Room(attempt.blobs, attempt.settings)
    for message in (round_done(0, {}), Finished()):
        child.messages.put(message)
    supervisor._attend(attempt, child, Slot())
    with database.reading() as session:
        job = session.get_one(Job, attempt.job.id)
        assert (job.status, job.failures) == (JobStatus.QUEUED, 1)
        [reason] = session.scalars(select(Attempt.reason)).all()
        assert reason == "ValueError in the worker; its log says more"


def test_a_blob_folder_that_is_away_lets_the_row_go(
    attempt: JobAttempt, child: Child, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = Supervisor.__new__(Supervisor)
    supervisor.settings, supervisor.draining = attempt.settings, threading.Event()
    supervisor.room = Room(attempt.blobs, attempt.settings)
    child.messages.put(BadMessage("what comes when all else fails"))

    def away() -> int:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(attempt.blobs, "free_bytes", away)
    assert not supervisor._attend(attempt, child, Slot())
    with database.reading() as session:
        job = session.get_one(Job, attempt.job.id)
        assert (job.status, job.failures, job.lease_until) == (JobStatus.QUEUED, 0, None)


def test_a_child_that_never_was_is_no_failure_of_the_job(
    attempt: JobAttempt, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No memory to fork, or a nursery that does not stay alive: one worker would fail a whole queue within seconds."""
    monkeypatch.setattr("sys.executable", "/bin/false")
    monkeypatch.setattr("worker.supervisor.PAUSE_SECONDS", 0.01)
    supervisor = Supervisor.__new__(Supervisor)
    supervisor.settings, supervisor.draining = attempt.settings, threading.Event()
    supervisor.room = Room(attempt.blobs, attempt.settings)
    children = Children()
    with children.lent() as child:
        assert not supervisor._attend(attempt, child, Slot())
    children.close()
    with database.reading() as session:
        job = session.get_one(Job, attempt.job.id)
        assert (job.status, job.failures) == (JobStatus.QUEUED, 0)
        assert "could not be started" in session.scalars(select(Attempt.reason)).one()


def test_a_validation_that_does_not_end_leaves_the_slot_to_others(fleet: Fleet, child: Child, tmp_path: Path) -> None:
    dataset = fleet.add_dataset()
    with fleet.database.transaction() as session:
        row = intake.claim(session, "w", 60)
    assert isinstance(row, Dataset)
    settings = fleet.settings.model_copy(update={"validation_seconds": 0.3})
    supervisor = Supervisor.__new__(Supervisor)
    supervisor.settings, supervisor.draining = settings, threading.Event()
    supervisor.room = Room(fleet.blobs, settings)
    lease = Lease(fleet.database, settings, Dataset, row.id, row.attempt, supervisor.draining)
    with Folder(tmp_path / "attempt-1", 1000) as folder:
        assert not supervisor._attend(IntakeAttempt(row, lease, folder, fleet.blobs, settings), child, Slot())
    ended = fleet._fetch(dataset)
    assert (ended.status, ended.lease_until, ended.error["code"]) == ("invalid", None, "out_of_time")


def test_a_death_by_a_signal_without_a_name_is_told(child: Child) -> None:
    child.process.send_signal(signal.SIGRTMIN + 6)
    assert f"signal {signal.SIGRTMIN + 6}" in child.last_words()


def test_a_cancel_after_a_pause_does_not_wait_for_a_checkpoint(
    attempt: JobAttempt, child: Child, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def ask_to_stop(save: bool) -> None:
        asked.append(save)
        with database.transaction() as session:
            jobs.order(session, attempt.job.project_id, attempt.job.id, Trigger.CANCEL)

    monkeypatch.setattr(child, "ask_to_stop", ask_to_stop)
    monkeypatch.setattr("worker.supervisor.CANCEL_SECONDS", 0.3)
    with database.transaction() as session:
        jobs.order(session, attempt.job.project_id, attempt.job.id, Trigger.PAUSE)
    supervisor = Supervisor.__new__(Supervisor)
    supervisor.settings = attempt.settings
    assert list(supervisor._listen(attempt.lease, attempt.folder, child)) == []
    assert asked == [True, False]
    assert child.process.wait(5) == -signal.SIGKILL, "long before the grace for saving is over"


def test_a_drain_ends_the_wait_for_a_bucket(attempt: JobAttempt, database: Database, settings: Settings) -> None:
    draining = threading.Event()
    lease = Lease(database, settings, Job, attempt.job.id, attempt.job.attempt, draining)

    def away() -> None:
        draining.set()
        raise BlobsAway("the bucket does not answer")

    with pytest.raises(BlobsAway):
        lease.keep_while(away)
