"""What a job will take, told before it is made."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from store import step_times
from store.database import Database
from store.tables import Job, Model


def plan(client: TestClient, body: dict[str, Any], **recipe: Any) -> dict[str, Any]:
    response = client.post("/v1/jobs?validate_only=true", json={**body, "recipe": {**body["recipe"], **recipe}})
    assert response.status_code == 200, response.text
    planned: dict[str, Any] = response.json()
    return planned


def test_an_estimate_says_how_good_it_is(
    client: TestClient, body: dict[str, Any], database: Database, bench: Any
) -> None:
    short = {"stop": {"rounds": 3}, "training": {"steps": 100, "batch_size": 50}}
    planned = plan(client, body, **short)
    assert (planned["estimate"]["seconds"], planned["estimate"]["basis"]) == (None, "unknown")
    assert planned["estimate"]["memory_bytes"] > 350 << 20
    files = 4 * (2 * 2260 * 4 + 2220 // 8)  # four entries: model and ticket, and a bit for each weight
    assert planned["estimate"]["artifact_bytes"] == files
    made = {"artifacts": ["model", "masks", "ticket", "card"], "cache": "on", "metadata": {}, "priority": 0}
    assert planned.items() >= made.items()

    job_id = client.post("/v1/jobs", json=body | {"recipe": {**body["recipe"], **short}}).json()["id"]
    round_ = {"steps": 100, "seconds": {"prune": 0.1, "train": 2.0, "evaluate": 0.4}, "macs": {"dense": 2220}}
    with database.transaction() as session:
        job = session.get_one(Job, job_id)
        step_times.record(session, job, round_, 4.5, is_first=True)
    estimate = plan(client, body, **short)["estimate"]
    assert estimate["basis"] == "measured"
    assert estimate["seconds"] == pytest.approx(2.0 + 4 * (2.0 + 0.5))
    controlled = plan(client, body, **short, controls=["random_mask"])["estimate"]
    assert controlled["seconds"] == pytest.approx(estimate["seconds"] + 3 * 2.0)

    twice = {**short, "training": {"steps": 100, "batch_size": 100}}
    scaled = plan(client, body, **twice)["estimate"]
    assert scaled["basis"] == "scaled"
    assert scaled["seconds"] == pytest.approx(2.0 + 4 * (4.0 + 0.5))
    other = bench.model(bench.model_report(num_parameters_total=9999, macs=22200))
    larger = plan(client, body | {"model": other.id}, **short)["estimate"]
    assert (larger["basis"], larger["seconds"]) == ("scaled", pytest.approx(2.0 + 4 * (20.0 + 0.5)))
    with database.transaction() as session:
        hostile = session.get_one(Model, other.id)
        hostile.report = {**(hostile.report or {}), "macs": "many"}
    assert plan(client, body | {"model": other.id}, **short)["estimate"]["basis"] == "scaled"
