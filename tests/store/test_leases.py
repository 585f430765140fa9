"""One holder at a time; a stale one writes nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from sqlalchemy import func, select, update

from store import intake, jobs, sweeps, underway
from store.blobs import BlobStore, StoredBlob, refer
from store.database import Database
from store.leases import Fenced
from store.queue import INTAKE
from store.tables import Artifact, Attempt, Blob, Job, JobStatus, Model, Project, Round, Underway
from store.transitions import Trigger


def claim(database: Database, seconds: float = 60, worker: str = "w") -> Job | None:
    with database.transaction() as session:
        return jobs.claim(session, "cpu", worker, seconds)


def record(database: Database, job: Job, position: int, blob: StoredBlob | None = None) -> None:
    with database.transaction() as session:
        artifacts = []
        if blob is not None:
            refer(session, blob)
            artifacts = [jobs.NewArtifact("model", "safetensors", "model.safetensors", blob)]
        jobs.record_round(
            session, job, position=position, number=position, sparsity=0.2, report={"metrics": {}},
            artifacts=artifacts, lease_seconds=60,
        )  # fmt: skip


def expire(database: Database, job: Job) -> None:
    with database.transaction() as session:
        session.execute(update(Job).where(Job.id == job.id).values(lease_until=1.0))
        assert sweeps.expire_leases(session) == 1


def test_a_zombie_writes_nothing(database: Database, submit: Callable[..., Job]) -> None:
    submit()
    zombie = claim(database)
    assert zombie is not None
    record(database, zombie, 0)
    assert claim(database) is None, "a doubled message must find nothing"
    expire(database, zombie)
    successor = claim(database, worker="other")
    assert successor is not None
    assert (successor.id, successor.attempt, successor.last_position) == (zombie.id, 2, 0)

    with pytest.raises(Fenced):
        record(database, zombie, 1)
    for write in (
        lambda s: jobs.renew(s, zombie.id, 1, 60, None),
        lambda s: jobs.complete(s, zombie.id, 1, 0, passed=True),
        lambda s: jobs.fail(s, zombie.id, 1, {"code": "diverged"}),
        lambda s: jobs.lose(s, zombie.id, 1, "late"),
        lambda s: jobs.record_determinism(s, zombie.id, 1, {}),
    ):
        with pytest.raises(Fenced), database.transaction() as session:
            write(session)
    record(database, successor, 1)
    with database.reading() as session:
        assert [r.attempt for r in jobs.stored_rounds(session, zombie.id)] == [1, 2]
        assert session.get_one(Job, zombie.id).status == "running"


def test_rounds_are_stored_once_and_in_order(database: Database, submit: Callable[..., Job], blobs: BlobStore) -> None:
    submit()
    job = claim(database)
    assert job is not None
    blob = blobs.put([b"weights"], 100)
    record(database, job, 0, blob)
    for wrong in (0, 2):
        with pytest.raises(Fenced):
            record(database, job, wrong, blob)
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Round)) == 1
        assert session.scalar(select(func.count()).select_from(Artifact)) == 1, "no half-written round"
        assert session.get_one(Blob, blob.digest).size_bytes == 7


def test_of_many_claims_one_wins_each_job(database: Database, submit: Callable[..., Job]) -> None:
    """Eight threads with connections of their own, thirty jobs."""
    wanted = {submit().id for _ in range(30)}
    won: list[str] = []

    def race() -> None:
        while (job := claim(database)) is not None:
            won.append(job.id)

    racers = [threading.Thread(target=race) for _ in range(8)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert sorted(won) == sorted(wanted)
    with database.reading() as session:
        assert set(session.scalars(select(Job.attempt))) == {1}


def test_the_best_job_goes_first(database: Database, submit: Callable[..., Job]) -> None:
    first, second, urgent = submit(), submit(), submit(priority=5)
    submit(pool="elsewhere")
    order = []
    while (job := claim(database)) is not None:
        order.append(job.id)
    assert order == [urgent.id, first.id, second.id]


def test_failures_are_bounded_and_reset_by_a_stored_round(database: Database, submit: Callable[..., Job]) -> None:
    submit(max_failures=2)
    job = claim(database)
    assert job is not None
    expire(database, job)
    job = claim(database)
    assert job is not None
    assert job.failures == 1
    record(database, job, 0)
    expire(database, job)
    job = claim(database)
    assert job is not None
    assert job.failures == 1, "the stored round set it back to 0 before"
    with database.transaction() as session:
        assert jobs.lose(session, job.id, job.attempt, "killed by SIGKILL").status is JobStatus.FAILED
    with database.reading() as session:
        after = session.get_one(Job, job.id)
        reasons = session.scalars(select(Attempt.reason).order_by(Attempt.number)).all()
    assert after.error is not None
    assert (after.error["code"], after.conclusion) == ("worker_lost", "error")
    assert "killed by SIGKILL" in after.error["message"]
    assert reasons == [sweeps.LOST, sweeps.LOST, "killed by SIGKILL"]
    assert claim(database) is None


def test_deadlines_and_queue_timeouts_end_jobs(database: Database, submit: Callable[..., Job]) -> None:
    late, slow, patient = submit(deadline_seconds=0.01), submit(queue_timeout_seconds=0.01), submit()
    running = claim(database)
    assert running is not None
    assert running.id == late.id
    time.sleep(0.05)
    with database.transaction() as session:
        assert sweeps.expire_deadlines(session) == 2
        assert sweeps.expire_deadlines(session) == 0
    with database.reading() as session:
        found = {
            job.id: (job.status, job.conclusion, (job.error or {}).get("code")) for job in session.scalars(select(Job))
        }
    assert found == {
        late.id: ("failed", "timed_out", "deadline_exceeded"),
        slow.id: ("failed", "timed_out", "queue_timeout"),
        patient.id: ("queued", None, None),
    }
    with pytest.raises(Fenced), database.transaction() as session:
        jobs.renew(session, running.id, running.attempt, 60, None)


def test_what_waits_is_counted_by_queue(database: Database, submit: Callable[..., Job], project: str) -> None:
    submit()
    submit(pool="gpu")
    submit(pool="gpu")
    with database.transaction() as session:
        intake.add_model(session, project_id=project, name="m", format="architecture", spec={}, blob=None)
        assert sweeps.waiting_rows(session) == {INTAKE: 1, "cpu": 1, "gpu": 2}
    assert claim(database) is not None
    with database.transaction() as session:
        intake.claim(session, "w", 60)
        assert sweeps.waiting_rows(session) == {INTAKE: 0, "gpu": 2}


def test_progress_is_shown_and_raises_the_version(database: Database, submit: Callable[..., Job]) -> None:
    submit()
    job = claim(database)
    assert job is not None
    with database.transaction() as session:
        assert jobs.renew(session, job.id, 1, 60, None) is JobStatus.RUNNING
        jobs.renew(session, job.id, 1, 60, {"round": 0, "step": 5, "steps": 10})
    with database.reading() as session:
        after = session.get_one(Job, job.id)
    assert after.progress == {"round": 0, "step": 5, "steps": 10}
    assert after.version == job.version + 1


def test_a_resume_in_another_class_of_machine_is_said(database: Database, submit: Callable[..., Job]) -> None:
    submit()
    job = claim(database)
    assert job is not None
    for threads in (1, 1, 2):
        with database.transaction() as session:
            jobs.record_determinism(session, job.id, 1, {"threads": threads})
    with database.reading() as session:
        said = [e.data for e in jobs.events(session, job.id) if e.type == "job.determinism_changed"]
    assert said == [{"attempt": 1, "before": {"threads": 1}, "now": {"threads": 2}}]


def test_validation_is_fenced_and_bounded_too(database: Database, project: str) -> None:
    with database.transaction() as session:
        added = intake.add_model(session, project_id=project, name="m", format="architecture", spec={}, blob=None)
    for tried in range(1, intake.MAX_FAILURES + 1):
        with database.transaction() as session:
            row = intake.claim(session, "w", 60)
            assert intake.claim(session, "w", 60) is None
        assert row is not None
        assert (row.id, row.attempt) == (added.id, tried)
        with pytest.raises(Fenced), database.transaction() as session:
            intake.accept(session, Model, row.id, row.attempt - 1, {})
        with database.transaction() as session:
            intake.lose(session, Model, row.id, row.attempt, "killed by SIGSEGV")
    with database.reading() as session:
        model = session.get_one(Model, added.id)
    assert model.status == "invalid"
    assert model.error is not None
    assert "SIGSEGV" in model.error["message"]


def test_projects_take_turns(database: Database, submit: Callable[..., Job]) -> None:
    """One that posted first, and much, does not keep the other waiting; an urgent job still goes before."""
    with database.transaction() as session:
        session.add(Project(id="prj_zzz", name="other", created_at=1.0))
    busy = [submit() for _ in range(4)]
    other = [submit(project_id="prj_zzz") for _ in range(2)]
    urgent = submit(priority=5)
    taken = []
    while (job := claim(database)) is not None:
        taken.append(job.id)
    # The urgent one is running by then: it is the other's turn.
    assert taken == [
        urgent.id, other[0].id, busy[0].id, other[1].id, busy[1].id, busy[2].id, busy[3].id
    ]  # fmt: skip


def test_a_round_is_begun_once_and_its_waiters_are_woken_by_whatever_ends_it(
    database: Database, submit: Callable[..., Job]
) -> None:
    submit(), submit()
    holder = claim(database)
    assert holder is not None
    with database.transaction() as session:
        assert underway.begin(session, holder, "name", 0)
    waiter = claim(database)
    assert waiter is not None
    with database.transaction() as session:
        assert not underway.begin(session, waiter, "name", 0)
        jobs.give_back(session, waiter.id, waiter.attempt, Trigger.DRAIN, "waits")
    with database.transaction() as session:
        assert underway.wait(session, waiter.id, waiter.project_id, "name")
        assert not underway.wait(session, waiter.id, waiter.project_id, "name"), "it waits already"
    assert claim(database) is None, "the only queued job waits"
    expire(database, holder)
    with database.reading() as session:
        assert session.get_one(Job, waiter.id).awaits is None
        assert session.scalar(select(func.count()).select_from(Underway)) == 0
        assert session.get_one(Job, holder.id).is_awaited
    first = claim(database)
    assert first is not None
    assert first.id == holder.id, "others waited for it"
    with database.transaction() as session:
        assert underway.begin(session, first, "name", 0)
    with database.transaction() as session:
        assert underway.wait(session, waiter.id, waiter.project_id, "name")
    record(database, first, 0)
    woken = claim(database)
    assert woken is not None
    assert woken.id == waiter.id


def test_of_many_that_begin_a_round_one_does(database: Database, submit: Callable[..., Job]) -> None:
    """And whoever comes to wait while it is stored is woken all the same."""
    for _ in range(9):
        submit()
    held = [job for _ in range(9) if (job := claim(database)) is not None]
    begun: list[Job] = []

    def race(job: Job) -> None:
        with database.transaction() as session:
            if underway.begin(session, job, "name", 0):
                begun.append(job)
                return
            jobs.give_back(session, job.id, job.attempt, Trigger.DRAIN, "waits")
        with database.transaction() as session:
            underway.wait(session, job.id, job.project_id, "name")

    def store() -> None:
        while not begun:
            time.sleep(0.001)
        record(database, begun[0], 0)

    racers = [threading.Thread(target=race, args=(job,)) for job in held] + [threading.Thread(target=store)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    with database.reading() as session:
        awaited = session.execute(
            select(Job.awaits, Underway.name).outerjoin(Underway, Underway.name == Job.awaits).distinct()
        ).all()
        assert all(job_awaits == name for job_awaits, name in awaited), "nobody waits for what nobody computes"
