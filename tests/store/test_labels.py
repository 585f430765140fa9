"""Metadata: found by, changed, bounded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import select

from store import jobs, labels
from store.database import Database
from store.tables import Job
from store.transitions import InvalidTransition, Trigger

Submit = Callable[..., Job]
ODD = {'a"b': "x", "$.a": "'; --", "a]b[": "%_", "": "empty"}
"""Keys that would be paths, patterns or quotes somewhere else."""


def found(database: Database, project: str, key: str, value: str) -> list[str]:
    with database.reading() as session:
        return list(session.scalars(select(Job.id).where(labels.has(project, key, value)).order_by(Job.id)))


def test_jobs_are_found_by_their_labels(database: Database, project: str, submit: Submit) -> None:
    odd, plain = submit(options={"metadata": ODD}), submit(options={"metadata": {"a": "x"}})
    for key, value in ODD.items():
        assert found(database, project, key, value) == [odd.id]
    assert found(database, project, "a", "x") == [plain.id]
    assert found(database, project, "a", "X") == []
    assert found(database, "prj_other", "a", "x") == []


def test_a_change_is_merged_told_and_found(database: Database, project: str, submit: Submit) -> None:
    job = submit(options={"metadata": {"a": "1", "b": "2"}, "cache": "on"})
    with database.transaction() as session:
        changed = labels.change_job(session, project, job.id, {"a": None, "b": "3", "c": "4"}, 5)
    assert changed is not None
    assert (changed.options, changed.priority) == ({"metadata": {"b": "3", "c": "4"}, "cache": "on"}, 5)
    assert changed.version == job.version + 1
    assert found(database, project, "a", "1") == []
    assert found(database, project, "b", "3") == [job.id]
    with database.transaction() as session:
        same = labels.change_job(session, project, job.id, {"c": "4"}, 5)
        assert same is not None
        assert same.version == changed.version, "nothing has changed"
        [event] = [event for event in jobs.events(session, job.id) if event.type == "job.updated"]
        assert event.data == {"fields": ["priority", "metadata"], "priority": 5}
        assert labels.change_job(session, "prj_other", job.id, {}, None) is None
        with pytest.raises(labels.TooManyLabels):
            labels.change_job(session, project, job.id, {str(n): "x" for n in range(15)}, None)


def test_what_has_ended_takes_labels_alone(database: Database, project: str, submit: Submit) -> None:
    job = submit()
    with database.transaction() as session:
        jobs.order(session, project, job.id, Trigger.CANCEL)
    with database.transaction() as session:
        with pytest.raises(InvalidTransition):
            labels.change_job(session, project, job.id, None, 1)
        assert labels.change_job(session, project, job.id, {"late": "yes"}, None) is not None
