"""A checkpoint is written by who holds the job, for the entry that is awaited, and goes with it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import select, update

from store import checkpoints, jobs, sweeps
from store.blobs import BlobStore, StoredBlob, located, refer
from store.database import Database
from store.leases import Fenced
from store.tables import Blob, Checkpoint, Dataset, DiscardedCopy, Job, JobStatus
from store.transitions import Trigger


def claim(database: Database) -> Job:
    with database.transaction() as session:
        job = jobs.claim(session, "cpu", "w", 60)
    assert job is not None
    return job


@pytest.fixture
def save(database: Database, blobs: BlobStore) -> Callable[..., StoredBlob]:
    def save(job: Job, position: int, step: int) -> StoredBlob:
        blob = blobs.put([f"{job.attempt} {position} {step}".encode()], 100)
        with database.transaction() as session:
            refer(session, blob)
            checkpoints.record(session, job, position, step, blob)
        return blob

    return save


def store_round(database: Database, job: Job, position: int) -> None:
    with database.transaction() as session:
        jobs.record_round(
            session, job, position=position, number=position, sparsity=0.2, report={"metrics": {}}, artifacts=[],
            lease_seconds=60,
        )  # fmt: skip


def lose(database: Database, job: Job) -> JobStatus:
    with database.transaction() as session:
        return jobs.lose(session, job.id, job.attempt, "killed").status


def rows(database: Database) -> list[tuple[int, int, int, str]]:
    with database.reading() as session:
        found = session.scalars(select(Checkpoint))
        return [(row.attempt, row.position, row.step, row.blob_digest) for row in found]


Save = Callable[..., StoredBlob]


def test_each_takes_the_place_of_the_last_and_goes_with_its_round(
    database: Database, submit: Callable[..., Job], save: Save
) -> None:
    submit()
    job = claim(database)
    first = save(job, 0, 10)
    assert rows(database) == [(1, 0, 10, first.digest)]
    second = save(job, 0, 20)
    assert rows(database) == [(1, 0, 20, second.digest)]
    store_round(database, job, 0)
    assert rows(database) == []
    third = save(job, 1, 3)
    assert rows(database) == [(1, 1, 3, third.digest)]
    with database.transaction() as session:
        assert checkpoints.find(session, job.id, 0) is None
        for gone in (first, second):
            assert session.get(Blob, gone.digest) is None
        assert set(session.scalars(select(DiscardedCopy.name))) == {first.name, second.name}
        assert session.get_one(Blob, third.digest).name == third.name


def test_content_that_something_else_refers_to_stays(
    database: Database, submit: Callable[..., Job], blobs: BlobStore, save: Save
) -> None:
    submit()
    job = claim(database)
    with database.reading() as session:
        given = session.scalars(select(Dataset.blob_digest)).one()
        copy = located(session, given)

    def record(step: int) -> None:
        with database.transaction() as session:
            refer(session, copy)
            checkpoints.record(session, job, 0, step, copy)

    for step in (10, 20):
        record(step)  # the second is of the same content
    save(job, 0, 30)
    with database.reading() as session:
        assert session.get_one(Blob, given).name == copy.name
        assert session.scalars(select(DiscardedCopy.name)).all() == []


def test_only_who_holds_the_job_writes_one_and_only_for_the_awaited_entry(
    database: Database, submit: Callable[..., Job], save: Save
) -> None:
    submit()
    zombie = claim(database)
    save(zombie, 0, 10)
    store_round(database, zombie, 0)
    for position in (0, 2):
        with pytest.raises(Fenced):
            save(zombie, position, 99)
    lose(database, zombie)
    with pytest.raises(Fenced):
        save(zombie, 1, 5)
    successor = claim(database)
    blob = save(successor, 1, 7)
    with pytest.raises(Fenced):
        save(zombie, 1, 9)
    assert rows(database) == [(2, 1, 7, blob.digest)]


def test_only_what_is_further_than_ever_counts_as_progress(
    database: Database, submit: Callable[..., Job], save: Save
) -> None:
    submit(max_failures=3)
    save(claim_after(database, 0), 0, 100)
    job = claim_after(database, 1)
    save(job, 0, 100)  # taken up, and saved before it did a step
    job = claim_after(database, 2, job)
    save(job, 0, 40)  # begun anew, for the checkpoint was no good
    save(job, 0, 90)
    with database.reading() as session:
        assert session.get_one(Job, job.id).failures == 2
    save(job, 0, 101)
    job = claim_after(database, 1, job)
    job = claim_after(database, 2, job)
    assert lose(database, job) is JobStatus.FAILED
    with database.reading() as session:
        error = session.get_one(Job, job.id).error
    assert error is not None
    assert "3 attempts in a row ended without getting further" in error["message"]


def claim_after(database: Database, failures: int, job: Job | None = None) -> Job:
    """The next attempt, whose row counts so many failures."""
    if failures:
        with database.reading() as session:
            held = session.scalars(select(Job)).one()
        lose(database, job or held)
    claimed = claim(database)
    assert claimed.failures == failures
    return claimed


@pytest.mark.parametrize("end", ["completed", "failed", "gave up", "canceled", "deadline"])
def test_a_job_that_ends_leaves_none(end: str, database: Database, submit: Callable[..., Job], save: Save) -> None:
    submit(max_failures=1, deadline_seconds=1000)
    job = claim(database)
    save(job, 0, 10)
    with database.transaction() as session:
        if end == "completed":
            jobs.complete(session, job.id, 1, 0, passed=True)
        elif end == "failed":
            jobs.fail(session, job.id, 1, {"code": "diverged", "message": "", "retryable": False})
        elif end == "gave up":
            jobs.lose(session, job.id, 1, "killed")
        elif end == "canceled":
            jobs.order(session, job.project_id, job.id, Trigger.CANCEL)
            jobs.give_back(session, job.id, 1, Trigger.STOP, "stopped")
        else:
            session.execute(update(Job).values(created_at=1.0))
            assert sweeps.expire_deadlines(session) == 1
    with database.reading() as session:
        assert JobStatus(session.get_one(Job, job.id).status).is_terminal
    assert rows(database) == []


def test_a_pause_and_a_lost_worker_leave_it(database: Database, submit: Callable[..., Job], save: Save) -> None:
    submit()
    job = claim(database)
    blob = save(job, 0, 10)
    with database.transaction() as session:
        jobs.order(session, job.project_id, job.id, Trigger.PAUSE)
        jobs.give_back(session, job.id, 1, Trigger.STOP, "stopped")
        jobs.order(session, job.project_id, job.id, Trigger.RESUME)
    lose(database, claim(database))
    assert rows(database) == [(1, 0, 10, blob.digest)]
