"""What a project has computed is not computed again, and comes out as if it were: on real workers."""

from __future__ import annotations

import socket
import subprocess
from typing import Any

import pytest
from fleet import SMALL, Fleet
from sqlalchemy import delete, func, select, update

from store import collection, counters, jobs, retention
from store.tables import Artifact, Blob, Dataset, Event, Job, Model, Project, Round, Underway, Worker

pytestmark = pytest.mark.timeout(600)
"""Several workers each: a machine under load starts one in half a minute."""
SLOW = pytest.mark.slow
ON = {"cache": "on"}
TRAINING = {"evaluate_every_steps": 50, "preprocessing": {"scale": 0.0625}}
Given = tuple[Model, Dataset]


def first_on(dialect: str) -> pytest.MarkDecorator:
    """On that database in the usual suite, for whom it is all the same; on the other one where time is no matter."""
    other = {"sqlite": "postgresql", "postgresql": "sqlite"}[dialect]
    return pytest.mark.parametrize("dialect", [dialect, pytest.param(other, marks=SLOW)], indirect=True)


@pytest.fixture
def given(fleet: Fleet) -> Given:
    return fleet.given(fleet.add_model()), fleet.given(fleet.add_dataset())


def changed(recipe: dict[str, Any], **sections: Any) -> dict[str, Any]:
    return {**recipe, **sections}


def rounds(fleet: Fleet, job: Job) -> list[Round]:
    with fleet.database.reading() as session:
        return jobs.stored_rounds(session, job.id)


def adopted(fleet: Fleet, job: Job) -> list[str | None]:
    return [row.adopted_from for row in rounds(fleet, job)]


def name_of(worker: subprocess.Popen[bytes]) -> str:
    """What it writes into the rows that it holds."""
    return f"{socket.gethostname()}:{worker.pid}"


def computing(fleet: Fleet) -> list[str | None]:
    """The worker of each round that is computed now."""
    with fleet.database.reading() as session:
        return list(session.scalars(select(Job.worker).join(Underway, Underway.job_id == Job.id)))


def counted(fleet: Fleet, name: str) -> float:
    with fleet.database.reading() as session:
        return sum(row.value for row in counters.read(session) if row.name == name)


DROPNET = {
    **SMALL,
    "strategy": "dropnet",
    "stop": {"rounds": 2, "accuracy_floor": {"factor": 0.1}},
    "training": {"steps": 60, "preprocessing": {"scale": 0.0625}},
}


CONTINUE = changed(SMALL, strategy="lottery_ticket_continue")


@pytest.mark.parametrize(
    ("dialect", "recipe"),
    [
        pytest.param("sqlite", SMALL, id="reset-sqlite"),
        pytest.param("postgresql", CONTINUE, id="continue-postgresql"),
        pytest.param("sqlite", DROPNET, id="dropnet-sqlite"),
        pytest.param("postgresql", SMALL, id="reset-postgresql", marks=SLOW),
        pytest.param("sqlite", CONTINUE, id="continue-sqlite", marks=SLOW),
        pytest.param("postgresql", DROPNET, id="dropnet-postgresql", marks=SLOW),
    ],
    indirect=["dialect"],
)
def test_a_job_posted_again_is_adopted_whole(fleet: Fleet, given: Given, recipe: dict[str, Any]) -> None:
    fleet.start("worker")
    first = fleet.finished(fleet.submit(*given, recipe, options=ON), 300)
    again = fleet.finished(fleet.submit(*given, recipe, options=ON), 300)
    alone = fleet.finished(fleet.submit(*given, recipe), 300)
    assert fleet.digests(again) == fleet.digests(first) == fleet.digests(alone)
    assert set(adopted(fleet, again)) == {first.id}
    assert set(adopted(fleet, first)) | set(adopted(fleet, alone)) == {None}
    for job in (again, alone):
        ended = (job.status, job.conclusion, job.selected_position, job.determinism)
        assert ended == (first.status, first.conclusion, first.selected_position, first.determinism)
    assert [row.report for row in rounds(fleet, again)] == [row.report for row in rounds(fleet, first)]
    assert [row.name for row in rounds(fleet, alone)] == [row.name for row in rounds(fleet, first)]
    assert "steps" not in (again.progress or {}), "no child was needed"
    with fleet.database.reading() as session:
        events = {
            job.id: session.scalars(select(Event.type).where(Event.job_id == job.id).order_by(Event.sequence)).all()
            for job in (first, again)
        }
    assert events[first.id] == events[again.id]
    assert counted(fleet, "round_disagreements") == 0


@SLOW
def test_an_extended_job_computes_the_new_rounds(fleet: Fleet, given: Given) -> None:
    fleet.start("worker")
    first = fleet.finished(fleet.submit(*given, options=ON), 300)
    longer = changed(SMALL, stop={"rounds": 5})
    extended, alone = fleet.submit(*given, longer, options=ON), fleet.submit(*given, longer)
    fleet.finished(extended), fleet.finished(alone)
    assert adopted(fleet, extended) == [first.id] * 4 + [None] * 2
    assert fleet.digests(extended) == fleet.digests(alone)


@SLOW
def test_a_job_corrected_in_a_later_axis_keeps_its_rounds(fleet: Fleet, given: Given) -> None:
    """Another criterion has the dense round still; another way to end has all of them, and its own final entry."""
    fleet.start("worker")
    first = fleet.finished(fleet.submit(*given, options=ON), 300)
    corrected = fleet.submit(*given, changed(SMALL, criterion={"name": "random"}), options=ON)
    final = fleet.submit(*given, changed(SMALL, **{"finally": {"weights": "reset", "train": True}}), options=ON)
    fleet.finished(corrected), fleet.finished(final)
    assert adopted(fleet, corrected) == [first.id, None, None, None]
    assert adopted(fleet, final) == [first.id] * 4 + [None]


@first_on("postgresql")
def test_what_one_job_computes_the_others_wait_for(fleet: Fleet, given: Given) -> None:
    """Three workers, five jobs that share a dense round, and who computes it is killed once another waits: whatever the
    machine does, and wherever the kill strikes, each round is computed once."""
    fleet.start("sweeper")
    workers = {name_of(worker): worker for worker in [fleet.start("worker") for _ in range(3)]}
    fleet.wait(lambda: num_workers(fleet), lambda num: num == 3, 300)
    dense = {**TRAINING, "steps": 2000}  # for seconds: they meet
    recipes = [changed(SMALL, stop={"rounds": 1}, schedule={"fraction": 0.2 * i}, training=dense) for i in range(1, 5)]
    submitted = [fleet.submit(*given, recipe, options=ON) for recipe in [*recipes, recipes[0]]]
    found = fleet.wait(lambda: awaited_or_ended(fleet), bool, 300)
    if found in workers:
        workers[found].kill()
    ended = [fleet.finished(job, 300) for job in submitted]
    assert {job.status for job in ended} == {"succeeded"}
    stored = [row for job in submitted for row in rounds(fleet, job)]
    computed = [row for row in stored if row.adopted_from is None]
    assert len(stored) == 10
    assert len(computed) == len({row.name for row in stored}) == 5, "one dense round, and four that go on from it"
    origins = {row.name: row.job_id for row in computed}
    assert {row.adopted_from for row in stored if row.adopted_from is not None} <= set(origins.values())
    assert all(row.adopted_from in (None, origins[row.name]) for row in stored)
    assert counted(fleet, "rounds") == 5
    assert {job.awaits for job in ended} == {None}


def num_workers(fleet: Fleet) -> int:
    with fleet.database.reading() as session:
        return session.scalars(select(func.count()).select_from(Worker).where(Worker.state == "ready")).one()


def awaited_or_ended(fleet: Fleet) -> str | None:
    """The worker that computes what another job waits for; "ended" where all have ended before any did."""
    with fleet.database.reading() as session:
        at_it = select(Job.worker).join(Underway, Underway.job_id == Job.id).where(Underway.is_awaited)
        if (worker := session.scalars(at_it).first()) is not None:
            return worker
        live = session.scalars(select(func.count()).select_from(Job).where(Job.finished_at.is_(None))).one()
        return None if live else "ended"


@first_on("sqlite")
def test_the_round_of_a_killed_worker_is_computed_by_another(fleet: Fleet, given: Given) -> None:
    """A round that never ends, and so is in the midst of it: the waiter waits until the lease is gone, and not
    longer."""
    endless = changed(SMALL, stop={"rounds": 1}, training={**TRAINING, "steps": 10_000_000})
    fleet.start("sweeper")
    killed = fleet.start("worker")
    first = fleet.submit(*given, endless, options=ON)
    fleet.wait(lambda: fleet._fetch(first), lambda job: job.progress is not None, 300)
    other = fleet.submit(*given, changed(endless, schedule={"fraction": 0.5}), options=ON)
    successor = fleet.start("worker")
    waiting = fleet.wait(lambda: fleet._fetch(other), lambda job: job.awaits is not None, 300)
    assert (waiting.status, waiting.attempt) == ("queued", 0), "to wait is no attempt"
    assert computing(fleet) == [name_of(killed)]
    killed.kill()
    # Either of the two is taken up, and the other waits or is in the queue: nobody waits for the dead.
    fleet.wait(lambda: computing(fleet), lambda names: names == [name_of(successor)], 300)


@SLOW
def test_off_computes_all_and_tells_what_disagrees(fleet: Fleet, given: Given) -> None:
    fleet.start("worker")
    first = fleet.finished(fleet.submit(*given, options=ON), 300)
    with fleet.database.transaction() as session:  # as another machine of this class would have computed it
        row = session.get_one(Round, (first.id, 1))
        row.digests = {**row.digests, "model": "0" * 64}
    again = fleet.finished(fleet.submit(*given, options={"cache": "off"}), 300)
    assert again.status == "succeeded"
    assert adopted(fleet, again) == [None] * 4
    with fleet.database.reading() as session:
        [said] = session.scalars(select(Event.data).where(Event.type == "round.disagrees", Event.job_id == again.id))
    assert said == {"round": 1, "job": first.id, "kinds": ["model"]}
    assert counted(fleet, "round_disagreements") == 1
    names = [row.name for row in rounds(fleet, again)]
    assert names[0] is not None
    assert names[1:] == [None] * 3, "what went on from it is nobody else's"


@first_on("postgresql")
def test_nothing_that_an_adopter_refers_to_goes_with_its_owner(fleet: Fleet, given: Given) -> None:
    fleet.start("worker")
    first = fleet.finished(fleet.submit(*given, options=ON), 300)
    again = fleet.finished(fleet.submit(*given, options=ON), 300)
    expected = fleet.digests(first)
    with fleet.database.transaction() as session:
        assert retention.delete_job(session, fleet.project, first.id)
        session.execute(update(Blob).values(touched_at=1.0))
    for shard in collection.SHARDS:
        collection.collect(fleet.database, fleet.blobs, shard)
    assert fleet.digests(again) == expected
    for _, _, digest in expected:
        assert b"".join(fleet.blobs.read(fleet.located(digest)))
    third = fleet.finished(fleet.submit(*given, options=ON), 300)
    assert set(adopted(fleet, third)) == {first.id}, "the job that computed it, though it is gone"
    with fleet.database.transaction() as session:
        session.execute(delete(Artifact).where(Artifact.position == 2))
    fourth = fleet.finished(fleet.submit(*given, options=ON), 300)
    assert adopted(fleet, fourth) == [first.id, first.id, None, None], "what is gone is computed"


@first_on("sqlite")
def test_another_project_adopts_nothing(fleet: Fleet, given: Given) -> None:
    fleet.start("worker")
    fleet.finished(fleet.submit(*given, options=ON), 300)
    with fleet.database.transaction() as session:
        session.add(Project(id="prj_other", name="other", created_at=1.0))
    theirs = fleet.finished(fleet.submit(*given, options=ON, project_id="prj_other"), 300)
    assert adopted(fleet, theirs) == [None] * 4
