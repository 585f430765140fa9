"""What a project has computed is not computed again, and comes out as if it were: on real workers."""

from __future__ import annotations

from typing import Any

import pytest
from fleet import SMALL, Fleet
from sqlalchemy import delete, select, update

from store import collection, counters, jobs, retention
from store.tables import Artifact, Blob, Dataset, Event, Job, Model, Project, Round, Underway

pytestmark = pytest.mark.timeout(600)
"""Several workers each: a machine under load starts one in half a minute."""
ON = {"cache": "on"}
TRAINING = {"evaluate_every_steps": 50, "preprocessing": {"scale": 0.0625}}
Given = tuple[Model, Dataset]


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


def counted(fleet: Fleet, name: str) -> float:
    with fleet.database.reading() as session:
        return sum(row.value for row in counters.read(session) if row.name == name)


DROPNET = {
    **SMALL,
    "strategy": "dropnet",
    "stop": {"rounds": 2, "accuracy_floor": {"factor": 0.1}},
    "training": {"steps": 60, "preprocessing": {"scale": 0.0625}},
}


@pytest.mark.parametrize(
    "recipe",
    [SMALL, changed(SMALL, strategy="lottery_ticket_continue"), DROPNET],
    ids=["reset", "continue", "dropnet"],
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


def test_an_extended_job_computes_the_new_rounds(fleet: Fleet, given: Given) -> None:
    fleet.start("worker")
    first = fleet.finished(fleet.submit(*given, options=ON), 300)
    longer = changed(SMALL, stop={"rounds": 5})
    extended, alone = fleet.submit(*given, longer, options=ON), fleet.submit(*given, longer)
    fleet.finished(extended), fleet.finished(alone)
    assert adopted(fleet, extended) == [first.id] * 4 + [None] * 2
    assert fleet.digests(extended) == fleet.digests(alone)


def test_a_job_corrected_in_a_later_axis_keeps_its_rounds(fleet: Fleet, given: Given) -> None:
    """Another criterion has the dense round still; another way to end has all of them, and its own final entry."""
    fleet.start("worker")
    first = fleet.finished(fleet.submit(*given, options=ON), 300)
    corrected = fleet.submit(*given, changed(SMALL, criterion={"name": "random"}), options=ON)
    final = fleet.submit(*given, changed(SMALL, **{"finally": {"weights": "reset", "train": True}}), options=ON)
    fleet.finished(corrected), fleet.finished(final)
    assert adopted(fleet, corrected) == [first.id, None, None, None]
    assert adopted(fleet, final) == [first.id] * 4 + [None]


def test_what_one_job_computes_the_others_wait_for(fleet: Fleet, given: Given) -> None:
    """Three workers, six jobs that share a dense round: whatever the machine does, it is computed once."""
    for _ in range(3):
        fleet.start("worker")
    recipes = [changed(SMALL, stop={"rounds": 1}, schedule={"fraction": 0.1 + 0.1 * i}) for i in range(6)]
    submitted = [fleet.submit(*given, recipe, options=ON) for recipe in recipes]
    ended = [fleet.finished(job, 600) for job in submitted]
    assert {job.status for job in ended} == {"succeeded"}
    dense = [rounds(fleet, job)[0] for job in submitted]
    computed = [row for row in dense if row.adopted_from is None]
    assert len(computed) == 1
    assert {row.adopted_from for row in dense} == {None, computed[0].job_id}
    assert counted(fleet, "rounds") == 7, "one dense round, and one of each job's own"
    assert {(job.failures, job.attempt) for job in ended} == {(0, 1)}, "to wait is no attempt"
    assert {job.awaits for job in ended} == {None}


def test_the_round_of_a_killed_worker_is_computed_by_another(fleet: Fleet, given: Given) -> None:
    """The waiter is taken up when the lease is gone, and whoever is second adopts."""
    endless = changed(SMALL, stop={"rounds": 1}, training={**TRAINING, "steps": 10_000_000})
    fleet.start("sweeper")
    worker = fleet.start("worker")
    first = fleet.submit(*given, endless, options=ON)
    fleet.wait(lambda: fleet._fetch(first), lambda job: job.progress is not None, 300)
    other = fleet.submit(*given, changed(endless, schedule={"fraction": 0.5}), options=ON)
    fleet.start("worker")
    waiting = fleet.wait(lambda: fleet._fetch(other), lambda job: job.awaits is not None, 300)
    assert (waiting.status, waiting.attempt) == ("queued", 0)
    worker.kill()
    # One of the two is taken up, the other waits for it: nobody waits for the dead.
    fleet.wait(
        lambda: [fleet._fetch(job) for job in (first, other)],
        lambda both: sorted(job.attempt for job in both) in ([0, 2], [1, 1]),
        300,
    )
    live = next(job for job in (fleet._fetch(first), fleet._fetch(other)) if job.lease_until is not None)
    with fleet.database.reading() as session:
        assert session.scalars(select(Underway.job_id)).all() == [live.id]


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


def test_another_project_adopts_nothing(fleet: Fleet, given: Given) -> None:
    fleet.start("worker")
    fleet.finished(fleet.submit(*given, options=ON), 300)
    with fleet.database.transaction() as session:
        session.add(Project(id="prj_other", name="other", created_at=1.0))
    theirs = fleet.finished(fleet.submit(*given, options=ON, project_id="prj_other"), 300)
    assert adopted(fleet, theirs) == [None] * 4
