"""Which checkpoints are written, stored and named to the next child; none of them costs a job anything."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fleet import Fleet
from sqlalchemy import select, update

from pruning.checkpoints import Checkpoint, Midway
from pruning.formats.checkpoints import read_checkpoint, size_bytes
from pruning.training import Diverged
from store import jobs
from store.blobs import BlobsAway, StoredBlob
from store.tables import Checkpoint as Row
from store.tables import Job, JobStatus, Model
from worker.attempts import JobAttempt
from worker.folder import BadFile, Folder
from worker.lease import Lease
from worker.messages import BadMessage, Checkpointed, NotResumed, Resumed
from worker.saver import ROOM, Saver


@pytest.fixture
def begin(fleet: Fleet, tmp_path: Path) -> Iterator[Callable[[], JobAttempt]]:
    """An attempt at a job, whose child is this test; each further one after the last was lost."""
    model, dataset = fleet.add_model(), fleet.add_dataset()
    fleet.submit(model, dataset, {"strategy": "lottery_ticket_reset", "stop": {"rounds": 3}}, max_failures=4)
    with fleet.database.transaction() as session:
        session.get_one(Model, model.id).blob_digest = dataset.blob_digest  # any content: no child reads it
    folders: list[Folder] = []

    def begin() -> JobAttempt:
        with fleet.database.transaction() as session:
            held = session.scalars(select(Job)).one()
            if held.lease_until is not None:
                jobs.lose(session, held.id, held.attempt, "killed")
        with fleet.database.transaction() as session:
            job = jobs.claim(session, fleet.settings.worker_pool, "w", 60)
        assert job is not None
        lease = Lease(fleet.database, fleet.settings, Job, job.id, job.attempt, threading.Event())
        folders.append(Folder(tmp_path / f"attempt-{job.attempt}", 1000))
        folders[-1].__enter__()
        return JobAttempt(job, lease, folders[-1], fleet.blobs, fleet.settings)

    yield begin
    for folder in folders:
        folder.remove()


def announce(attempt: JobAttempt, step: int, position: int = 0, content: bytes | None = None) -> Path:
    path = attempt.folder.outputs / f"checkpoint.{step}"
    path.write_bytes(content if content is not None else f"{position} {step}".encode())
    attempt.take(Checkpointed(position=position, step=step, file=path.name))
    return path


def stored(fleet: Fleet) -> list[tuple[int, int]]:
    with fleet.database.reading() as session:
        return [(row.attempt, row.step) for row in session.scalars(select(Row))]


def told(fleet: Fleet) -> list[tuple[str, dict[str, Any]]]:
    with fleet.database.reading() as session:
        job = session.scalars(select(Job)).one()
        return [(e.type, e.data) for e in jobs.events(session, job.id) if e.type.startswith("checkpoint.")]


def test_a_child_that_floods_or_goes_back_is_held(begin: Callable[[], JobAttempt], fleet: Fleet) -> None:
    attempt = begin()
    attempt.checkpoints._every_seconds = 600.0
    assert not announce(attempt, 10).exists(), "what is stored is removed, so that the child may write the next"
    assert not announce(attempt, 11).exists()
    assert stored(fleet) == [(1, 10)], "too soon, and dropped"
    attempt.lease.status = JobStatus.PAUSING
    announce(attempt, 12)
    assert stored(fleet) == [(1, 12)], "an order to stop is always in time"
    with pytest.raises(BadMessage, match="goes back"):
        announce(attempt, 11)
    with pytest.raises(BadFile):
        attempt.take(Checkpointed(position=0, step=13, file="missing"))
    with pytest.raises(BadFile, match="more than 1000 bytes"):
        announce(attempt, 14, content=b"x" * 1001)
    for word in (Resumed(), NotResumed(reason="")):
        with pytest.raises(BadMessage, match="out of turn"):
            attempt.take(word)
    attempt._exported.add("program")
    with pytest.raises(BadMessage, match="out of turn"):
        announce(attempt, 15)
    assert stored(fleet) == [(1, 12)]


def test_the_next_attempt_is_given_it_and_says_once_what_became_of_it(
    begin: Callable[[], JobAttempt], fleet: Fleet
) -> None:
    first = begin()
    assert first.order()["has_checkpoint"] is False
    announce(first, 10, content=b"content")
    second = begin()
    assert second.order()["has_checkpoint"] is True
    assert (second.folder.inputs / "checkpoint").read_bytes() == b"content"
    second.take(Resumed())
    with pytest.raises(BadMessage, match="out of turn"):
        second.take(NotResumed(reason="twice"))
    third = begin()
    third.order()
    third.take(NotResumed(reason="it is of another recipe"))
    where = {"position": 0, "step": 10}
    assert told(fleet) == [
        ("checkpoint.resumed", {"attempt": 2, **where}),
        ("checkpoint.ignored", {"attempt": 3, **where, "reason": "it is of another recipe"}),
    ]
    # Two attempts after the one that saved it got no further: the last that is left does not try a third time.
    last = begin()
    assert last.job.failures == 3
    assert last.order()["has_checkpoint"] is False
    assert "this one is the last" in told(fleet)[-1][1]["reason"]


def test_steps_that_are_made_up_end_the_job_all_the_same(begin: Callable[[], JobAttempt], fleet: Fleet) -> None:
    def failures() -> int:
        with fleet.database.reading() as session:
            return session.scalars(select(Job.failures)).one()

    for step in (10, 20, 30):
        attempt = begin()
        announce(attempt, step)
        assert stored(fleet)[0][1] == step
        assert failures() == attempt.job.failures == step / 10 - 1
    attempt.checkpoints._next_at = attempt.checkpoints._progress_from = time.monotonic()
    announce(attempt, 40)
    assert failures() == 0, "it has worked for a while"


@pytest.mark.parametrize("loss", ["gone", "damaged"])
def test_content_that_is_lost_is_done_without(loss: str, begin: Callable[[], JobAttempt], fleet: Fleet) -> None:
    announce(begin(), 10)
    [content] = [path for path in (fleet.settings.data_dir / "blobs").rglob("*") if path.is_file()
                 and path.read_bytes() == b"0 10"]  # fmt: skip
    content.chmod(0o600)
    content.unlink() if loss == "gone" else content.write_bytes(b"0 11")
    attempt = begin()
    assert attempt.order()["has_checkpoint"] is False
    assert [(type_, data["reason"]) for type_, data in told(fleet)] == [("checkpoint.ignored", "its content is lost")]


@pytest.mark.parametrize("error", [BlobsAway("the bucket does not answer"), OSError(28, "No space left on device")])
def test_a_store_that_takes_nothing_costs_the_job_nothing(
    error: Exception, begin: Callable[[], JobAttempt], fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = begin()

    def full(*_: object) -> StoredBlob:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(fleet.blobs, "put_file", full)
        started = time.monotonic()
        assert not announce(attempt, 10).exists()
        assert time.monotonic() - started < 2, "no checkpoint is worth the wait"
    assert stored(fleet) == []
    attempt.lease.status = JobStatus.PAUSING
    announce(attempt, 20)
    assert stored(fleet) == [(1, 20)]


def test_however_much_is_written_renewals_come_in_time(begin: Callable[[], JobAttempt], fleet: Fleet) -> None:
    """Only they tell of orders."""
    attempt = begin()
    with fleet.database.transaction() as session:
        session.execute(update(Job).values(status=JobStatus.CANCELING))
    until = time.monotonic() + 5 * fleet.settings.renew_seconds
    while not attempt.lease.ordered_to_stop and time.monotonic() < until:
        attempt.lease.write(lambda session: jobs.remark(session, attempt.job, "written", {}))
        attempt.lease.renew_if_due()
    assert attempt.lease.ordered_to_stop


# In the child.


def a_checkpoint(step: int = 3) -> Checkpoint:
    midway = Midway(step, {"weight": torch.arange(100.0)}, {})
    return Checkpoint("digest", 0, 0, {}, 0.0, 0.0, midway)


@pytest.fixture
def said() -> list[Any]:
    return []


def test_one_every_so_often_and_none_before_the_last_is_fetched(tmp_path: Path, said: list[Any]) -> None:
    saver = Saver(tmp_path, 0.1, 1 << 20, said.append)
    saver.offer(a_checkpoint, at_once=False)
    assert said == []
    time.sleep(0.11)
    saver.offer(a_checkpoint, at_once=False)
    time.sleep(0.5)
    saver.offer(a_checkpoint, at_once=False)
    assert said == [Checkpointed(position=0, step=3, file="checkpoint.0")]
    assert read_checkpoint(tmp_path / "checkpoint.0").midway.step == 3
    saver.offer(a_checkpoint, at_once=True)
    assert said[1:] == [Checkpointed(position=0, step=3, file="checkpoint.1")]
    for path in tmp_path.iterdir():
        path.unlink()
    time.sleep(0.5)
    saver.offer(a_checkpoint, at_once=False)
    assert len(said) == 3


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory"), OSError(28, "full")])
def test_what_cannot_be_made_is_done_without(error: Exception, tmp_path: Path, said: list[Any]) -> None:
    def make() -> Checkpoint:
        raise error

    Saver(tmp_path, 60, 1 << 20, said.append).offer(make, at_once=True)
    Saver(tmp_path / "missing", 60, 1 << 20, said.append).offer(make, at_once=True)
    room = ROOM * size_bytes(a_checkpoint())
    Saver(tmp_path, 60, room - 1, said.append).offer(a_checkpoint, at_once=True)
    assert (said, list(tmp_path.iterdir())) == ([], [])
    Saver(tmp_path, 60, room, said.append).offer(a_checkpoint, at_once=True)
    assert len(said) == 1


def test_what_is_no_number_is_not_saved(tmp_path: Path, said: list[Any]) -> None:
    def make() -> Checkpoint:
        raise Diverged(7)

    with pytest.raises(Diverged):
        Saver(tmp_path, 60, 1 << 20, said.append).offer(make, at_once=True)
    assert said == []
