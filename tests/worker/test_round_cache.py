"""What a project has computed is not computed again, and comes out as if it were: on real workers."""

from __future__ import annotations

from typing import Any

import pytest
from fleet import SMALL, Fleet
from sqlalchemy import select

from store import counters, jobs
from store.tables import Dataset, Event, Job, Model, Round

ON = {"cache": "on"}
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
    first = fleet.finished(fleet.submit(*given, recipe, options=ON))
    again = fleet.finished(fleet.submit(*given, recipe, options=ON))
    alone = fleet.finished(fleet.submit(*given, recipe))
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
    first = fleet.finished(fleet.submit(*given, options=ON))
    longer = changed(SMALL, stop={"rounds": 5})
    extended, alone = fleet.submit(*given, longer, options=ON), fleet.submit(*given, longer)
    fleet.finished(extended), fleet.finished(alone)
    assert adopted(fleet, extended) == [first.id] * 4 + [None] * 2
    assert fleet.digests(extended) == fleet.digests(alone)
