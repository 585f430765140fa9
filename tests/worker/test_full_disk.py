"""The disk fills up under a running job: it costs time, never the job, a round or one of its failures."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fleet import SMALL, Fleet
from tmpfs import fill, small_disk

from store.settings import Settings
from store.tables import Attempt, Job

MIB = 1 << 20


@pytest.fixture
def settings(settings: Settings) -> Iterator[Settings]:
    """What is stored and what is worked with lie on small disks of their own."""
    with small_disk(settings.blob_dir, 24 * MIB), small_disk(settings.work_dir, 24 * MIB):
        yield settings.model_copy(update={"min_free_bytes": 4 * MIB})


@pytest.mark.timeout(240)
@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_a_job_outlives_a_full_disk(fleet: Fleet) -> None:
    worker, sweeper = fleet.start("worker"), fleet.start("sweeper")
    model, dataset = fleet.given(fleet.add_model()), fleet.given(fleet.add_dataset())
    recipe = {**SMALL, "training": {**SMALL["training"], "steps": 1500}}
    expected = fleet.digests(fleet.finished(fleet.submit(model, dataset, recipe)))

    # Nothing can be stored: what the training process has written is kept until it can be.
    job = fleet.submit(model, dataset, recipe, max_failures=1)
    fleet.wait(lambda: fleet.log("worker"), lambda log: f"{job.id} attempt 1: claimed" in log)
    ballast = fill(fleet.settings.blob_dir)
    fleet.wait(lambda: fleet.log("worker"), lambda log: "there is no room" in log and "trying again" in log)
    assert fleet._fetch(job).last_position == -1
    ballast.unlink()
    ended = fleet.finished(job)
    assert (ended.conclusion, ended.failures, ended.attempt) == ("passed", 0, 1)
    assert fleet.digests(ended) == expected

    # The training process itself finds no room: its job goes back, and is taken again once there is some.
    job = fleet.submit(model, dataset, recipe, max_failures=1)
    fleet.wait(lambda: has_begun(fleet, job), bool)
    ballast = fill(fleet.settings.work_dir)
    fleet.wait(lambda: fleet.log("worker"), lambda log: "no work is taken" in log)
    # The worker may see that its disk is full before the training process does.
    waiting = fleet.wait(lambda: fleet._fetch(job), lambda now: now.status != "running")
    assert (waiting.status, waiting.attempt, waiting.failures) == ("queued", 1, 0)
    ballast.unlink()
    ended = fleet.finished(job)
    assert (ended.conclusion, ended.failures, ended.attempt) == ("passed", 0, 2)
    assert fleet.digests(ended) == expected
    assert "disk is full" in str(first_attempt(fleet, job).reason)
    assert worker.poll() is sweeper.poll() is None


def has_begun(fleet: Fleet, job: Job) -> bool:
    """Its training process has its inputs. Progress is seen seconds later, when a fast machine may be done."""
    return fleet._fetch(job).status == "running" and first_attempt(fleet, job).determinism is not None


def first_attempt(fleet: Fleet, job: Job) -> Attempt:
    with fleet.database.reading() as session:
        return session.get_one(Attempt, (job.id, 1))
