"""Whatever is killed, a job ends once, with the result it would have had. Real processes, real SIGKILL."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time

import pytest
import torch
from fleet import SMALL, Fleet
from sqlalchemy import select, update
from torch import Tensor, nn

from chaos.processes import children_of, descendants_of, is_alive
from store import jobs
from store.tables import Artifact, Attempt, Checkpoint

DROPNET = {
    "strategy": "dropnet",
    "stop": {"rounds": 3, "accuracy_floor": {"factor": 0.5}},
    "training": {"epochs": 3, "preprocessing": {"scale": 0.0625}},
}
CONTINUE = {**SMALL, "strategy": "lottery_ticket_continue"}


class Stranger(nn.Module):
    """A class that only its own side has: residual, batch-norm, dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem, self.norm, self.branch = nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.Conv2d(12, 12, 1)
        self.dropout, self.head = nn.Dropout(0.1), nn.Linear(12 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.nn.functional.max_pool2d(torch.relu(x + self.branch(x)), 2)
        logits: Tensor = self.head(self.dropout(x.flatten(1)))
        return logits


def kill(pids: list[int]) -> int:
    killed = 0
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            killed += 1
    return killed


def training_processes(worker: int) -> list[int]:
    return [child for nursery in children_of(worker) for child in children_of(nursery)]


@pytest.mark.timeout(240)
def test_killed_at_random_moments_ends_with_the_same_digests(fleet: Fleet) -> None:
    """Workers and children of three jobs, one for each algorithm, killed again and again by a seeded schedule."""
    worker, _sweeper = fleet.start("worker"), fleet.start("sweeper")
    lenet, dataset = fleet.given(fleet.add_model()), fleet.given(fleet.add_dataset())
    stranger = fleet.given(fleet.add_program(Stranger(), torch.zeros(2, 1, 8, 8)))
    kinds = ["model", "masks", "ticket", "program"]
    studies = [(lenet, SMALL), (stranger, CONTINUE), (stranger, DROPNET)]
    undisturbed = [fleet.submit(model, dataset, recipe, artifacts=kinds) for model, recipe in studies]
    expected = [fleet.digests(job) for job in [fleet.finished(job) for job in undisturbed]]
    assert [len({position for position, _, _ in digests}) for digests in expected] == [4, 5, 4]

    chance = random.Random(7)
    disturbed = [fleet.submit(model, dataset, recipe, artifacts=kinds, max_failures=100) for model, recipe in studies]
    kills = 0
    while kills < 8 and not all(fleet._fetch(job).status == "succeeded" for job in disturbed):
        time.sleep(chance.uniform(0.3, 1.2))
        what = chance.choice(["children", "children", "nursery", "worker", "worker", "worker"])
        if what == "children":
            kills += kill(training_processes(worker.pid)) > 0
        elif what == "nursery":  # its children die with it, and another one is started
            kills += kill(children_of(worker.pid)) > 0
        else:
            orphans = descendants_of(worker.pid)
            worker.kill()
            worker.wait()
            kills += 1
            fleet.wait(lambda o=orphans: [p for p in o if is_alive(p)], lambda alive: not alive, 5)
            worker = fleet.start("worker")
    ended = [fleet.finished(job, 120) for job in disturbed]

    assert kills >= 4
    # The worker clears up the last attempt just after the job has ended; what killed workers left went before, but for
    # what they had tried a device in, which goes when it is minutes old.
    fleet.wait(
        lambda: [p for p in fleet.settings.work_dir.iterdir() if p.name[:4] == "job_"], lambda left: not left, 10
    )
    assert [(job.status, job.conclusion) for job in ended] == [("succeeded", "passed")] * 3
    assert [fleet.digests(job) for job in ended] == expected
    with fleet.database.reading() as session:
        for job in ended:
            ends = [e for e in jobs.events(session, job.id) if e.type == "job.succeeded"]
            assert len(ends) == 1, "ended exactly once"
            programs = session.scalars(select(Artifact).where(Artifact.job_id == job.id, Artifact.kind == "program"))
            assert [program.position for program in programs] == [job.selected_position]
            attempts = session.scalars(select(Attempt).where(Attempt.job_id == job.id)).all()
            assert all(attempt.ended_at is not None for attempt in attempts)
    assert sum(job.attempt for job in ended) > 3, "the schedule killed running attempts"


@pytest.mark.timeout(240)
def test_killed_inside_a_round_goes_on_at_its_step(fleet: Fleet) -> None:
    """Child, worker, child; of the second's checkpoint the content is exchanged: that attempt begins the round anew."""
    fleet.settings = fleet.settings.model_copy(update={"checkpoint_seconds": 0.2})
    worker, _sweeper = fleet.start("worker"), fleet.start("sweeper")
    model, dataset = fleet.given(fleet.add_model()), fleet.given(fleet.add_dataset())
    long = {**SMALL, "stop": {"rounds": 1}, "training": {**SMALL["training"], "steps": 4000}}
    expected = fleet.digests(fleet.finished(fleet.submit(model, dataset, long)))

    def saved() -> tuple[int, int, int]:
        with fleet.database.reading() as session:
            row = session.scalar(select(Checkpoint).where(Checkpoint.job_id == job.id))
            return (row.attempt, row.position, row.step) if row else (0, 0, 0)

    job = fleet.submit(model, dataset, long, max_failures=10)
    killed = []
    for attempt, victim in enumerate(("child", "worker", "child"), 1):
        fleet.wait(saved, lambda now, a=attempt: now[0] == a)
        if victim == "child":
            kill(training_processes(worker.pid))
        else:
            orphans = descendants_of(worker.pid)
            worker.kill()
            worker.wait()
            fleet.wait(lambda o=orphans: [p for p in o if is_alive(p)], lambda alive: not alive, 5)
        killed.append(saved())
        if victim == "worker":
            with fleet.database.transaction() as session:
                session.execute(update(Checkpoint).values(blob_digest=dataset.blob_digest))
            worker = fleet.start("worker")
    ended = fleet.finished(job)
    assert (ended.status, ended.attempt) == ("succeeded", 4)
    assert fleet.digests(ended) == expected
    with fleet.database.reading() as session:
        said = [e for e in jobs.events(session, job.id) if e.type.startswith("checkpoint.")]
        assert session.scalar(select(Checkpoint)) is None
    assert [event.type.removeprefix("checkpoint.") for event in said] == ["resumed", "ignored", "resumed"]
    for event, (before, position, step) in zip(said, killed, strict=True):
        assert (event.data["attempt"], event.data["position"]) == (before + 1, position)
        assert event.data["step"] >= step > 0


def test_a_poisonous_job_fails_and_the_worker_lives_on(fleet: Fleet) -> None:
    worker = fleet.start("worker")
    fleet.start("sweeper")
    model, dataset = fleet.given(fleet.add_model()), fleet.given(fleet.add_dataset())
    job = fleet.submit(model, dataset, {**SMALL, "training": {**SMALL["training"], "steps": 100_000}}, max_failures=2)
    fleet.wait(lambda: fleet._fetch(job), lambda now: now.progress is not None)
    fleet.wait(lambda: (kill(training_processes(worker.pid)), fleet._fetch(job))[1], lambda now: now.status == "failed")
    after = fleet.finished(job)
    assert (after.error["code"], after.attempt) == ("worker_lost", 2)
    assert "SIGKILL" in after.error["message"]
    assert worker.poll() is None
    assert fleet.finished(fleet.submit(model, dataset)).conclusion == "passed"


def test_what_nobody_rang_for_is_found_by_the_sweeper(fleet: Fleet) -> None:
    """A lost message loses nothing: the sweeper sees more rows that wait than messages that tell of them."""
    model, dataset = fleet.add_model(), fleet.add_dataset()
    for left in ("job_left-1", "device_left-0", "device_tried_by_another-0"):
        (fleet.settings.work_dir / left).mkdir(parents=True)
    os.utime(fleet.settings.work_dir / "device_left-0", (1.0, 1.0))
    fleet.start("worker")
    fleet.start("sweeper")
    for row in (model, dataset):
        ready = fleet.wait(lambda r=row: fleet._fetch(r), lambda now: now.status != "validating")
        assert ready.status == "ready"
    left = {folder.name for folder in fleet.settings.work_dir.iterdir()}
    assert {"job_left-1", "device_left-0", "device_tried_by_another-0"} & left == {"device_tried_by_another-0"}
