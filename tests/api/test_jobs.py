"""Jobs over HTTP: what is made, how it is shown while it runs, and what orders do. (Refusals: test_admission.py.)"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from redis import Redis
from sqlalchemy import update
from starlette.testclient import TestClient

from store import jobs
from store.tables import Job

Refused = Callable[..., dict[str, Any]]
Posted = Callable[..., dict[str, Any]]

FULL = {
    "gates": [{"metric": "accuracy", "split": "validation", "op": ">=", "value": 0.9}],
    "select": "best",
    "pool": "gpu-1",
    "priority": 7,
    "queue_timeout_seconds": 60,
    "deadline_seconds": 3600,
    "max_failures": 5,
    "keep_rounds": "all",
    "artifacts": ["model", "sparse"],
    "cache": "off",
    "metadata": {"sha": "1a2b3c"},
}


RECIPE = {
    "strategy": "lottery_ticket_reset",
    "criterion": {"name": "magnitude", "keep": "high"},
    "granularity": "weight",
    "scope": {"kind": "layerwise", "overrides": {"output": {"rate": 0.5, "ignore": False, "min_units": 1}}},
    "schedule": {"kind": "fraction", "fraction": 0.2, "of": "remaining"},
    "between_rounds": {"weights": "reset", "step": None, "learning_rate": "restart", "optimizer_state": "fresh"},
    "finally": {"weights": "none", "train": False},
    "stop": {"rounds": 15, "sparsity": None, "accuracy_floor": None, "seconds": None, "patience": None},
    "training": {
        "steps": 2000,
        "epochs": None,
        "batch_size": 60,
        "optimizer": {"name": "adam", "lr": 0.0012, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0},
        "learning_rate": {"kind": "constant", "milestones": [0.5, 0.75], "factor": 0.1, "warmup_steps": 0},
        "loss": "cross_entropy",
        "label_smoothing": 0.0,
        "evaluate_every_steps": 100,
        "early_stopping": None,
        "preprocessing": {"scale": None, "mean": 0.0, "std": 1.0},
        "augmentation": {"flip": False, "crop_padding": 0},
        "precision": "float32",
        "channels_last": False,
        "recalibrate_batch_norm": False,
        "distillation": None,
    },
    "controls": [],
    "materialize": None,
    "sensitivity": None,
    "seed": 0,
}
PROMISED = {
    "id", "object", "status", "done", "conclusion", "model", "dataset", "recipe", "progress", "selected_round",
    "gates", "attempts", "error", "determinism", "created_at", "started_at", "finished_at", "expires_at",
}  # fmt: skip


def test_three_lines_make_a_job_and_the_rest_is_filled_in(client: TestClient, body: dict[str, Any]) -> None:
    response = client.post("/v1/jobs", json=body)
    assert response.status_code == 201
    job = response.json()
    assert job["id"].startswith("job_")
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert client.get(response.headers["location"]).json() == job
    created_at = datetime.fromisoformat(job["created_at"])
    assert created_at.utcoffset() == timedelta(0)
    assert abs(created_at.timestamp() - time.time()) < 60
    assert job == {
        "id": job["id"],
        "object": "job",
        "status": "queued",
        "done": False,
        "conclusion": None,
        "retried_from": None,
        "comparison": None,
        "model": body["model"],
        "dataset": body["dataset"],
        "recipe": RECIPE,
        "progress": {"round": None, "rounds": 15, "fraction": 0.0, "eta_seconds": None},
        "selected_round": None,
        "gates": [],
        "select": "smallest_passing",
        "pool": client.get("/v1/capabilities").json()["default_pool"],
        "priority": 0,
        "queue_position": 1,
        "waiting_for": None,
        "attempts": [],
        "failures": 0,
        "max_failures": 3,
        "queue_timeout_seconds": None,
        "deadline_seconds": None,
        "keep_rounds": "all",
        "expires_in_seconds": None,
        "artifacts": ["model", "masks", "ticket", "card"],
        "cache": "on",
        "metadata": {},
        "error": None,
        "determinism": None,
        "created_at": job["created_at"],
        "started_at": None,
        "finished_at": None,
        "expires_at": None,
    }


def test_every_promised_field_is_there_all_the_way(client: TestClient, posted: Posted, bench: Any) -> None:
    path = f"/v1/jobs/{posted()['id']}"

    def now(status: str, conclusion: str | None = None) -> dict[str, Any]:
        job: dict[str, Any] = client.get(path).json()
        assert job.keys() >= PROMISED
        assert (job["status"], job["conclusion"], job["done"]) == (status, conclusion, conclusion is not None)
        assert job["progress"].keys() == {"round", "rounds", "fraction", "eta_seconds"}
        [listed] = client.get("/v1/jobs").json()["data"]
        listed["progress"]["eta_seconds"] = job["progress"]["eta_seconds"]  # which passes as we look
        assert listed == job
        return job

    queued = now("queued")
    assert (queued["started_at"], queued["finished_at"], queued["attempts"]) == (None, None, [])
    held = bench.claim()
    running = now("running")
    [attempt] = running["attempts"]
    assert attempt == {
        "number": 1,
        "worker": "worker-1",
        "started_at": attempt["started_at"],
        "ended_at": None,
        "reason": None,
    }
    assert running["created_at"] <= running["started_at"] <= attempt["started_at"]
    assert running["finished_at"] is None
    bench.store_round(held, 0, 0.9, 0.0)
    bench.complete(held, 0)
    succeeded = now("succeeded", "passed")
    assert (succeeded["selected_round"], succeeded["error"]) == (0, None)
    assert running["started_at"] == succeeded["started_at"] <= succeeded["finished_at"]
    [attempt] = succeeded["attempts"]
    assert (attempt["reason"], attempt["ended_at"] >= attempt["started_at"]) == ("completed", True)


def test_a_recipe_is_merged_with_its_strategys(posted: Posted) -> None:
    recipe = posted(recipe={"strategy": "dropnet", "training": {"epochs": 3}})["recipe"]
    assert recipe["criterion"] == {"name": "activation", "keep": "high"}
    assert recipe["training"]["epochs"] == 3
    assert recipe["training"]["early_stopping"] == {"patience": 5}
    assert recipe["stop"]["accuracy_floor"]["factor"] == 0.98


def test_what_is_given_is_echoed(client: TestClient, posted: Posted) -> None:
    job = posted(**FULL)
    assert {key: job[key] for key in FULL} == FULL
    assert client.get(f"/v1/jobs/{job['id']}").json() == job


def test_a_post_rings_its_pool(client: TestClient, posted: Posted, bench: Any) -> None:
    with Redis.from_url(bench.settings.broker_url) as broker:
        pool = bench.settings.default_pool + "-jobs"
        job = posted(pool=pool)
        assert broker.llen(pool) == 1
        client.post(f"/v1/jobs/{job['id']}/pause")
        assert broker.llen(pool) == 1
        client.post(f"/v1/jobs/{job['id']}/resume")
        assert broker.llen(pool) == 2


def test_validate_only_plans_and_stores_nothing(client: TestClient, body: dict[str, Any]) -> None:
    body["recipe"]["stop"] = {"rounds": None, "sparsity": 0.5}
    response = client.post("/v1/jobs?validate_only=true", json=body)
    assert response.status_code == 200
    plan = response.json()
    assert plan["object"] == "plan"
    assert plan["recipe"] == {**RECIPE, "stop": {**RECIPE["stop"], "rounds": None, "sparsity": 0.5}}
    assert [row["number"] for row in plan["rounds"]] == [0, 1, 2, 3, 4]
    assert plan["rounds"][1]["num_remaining"] == 1920 - 384 + 300 - 30
    assert plan["rounds"][3]["sparsity"] < 0.5 <= plan["rounds"][4]["sparsity"]
    assert "location" not in response.headers
    assert client.get("/v1/jobs").json()["data"] == []
    # It is the plan of the job: that will run four rounds.
    assert client.post("/v1/jobs", json=body).json()["progress"]["rounds"] == 4


def test_orders(client: TestClient, refused: Refused, posted: Posted, bench: Any) -> None:
    job = posted()

    def order(verb: str, status: str) -> dict[str, Any]:
        response = client.post(f"/v1/jobs/{job['id']}/{verb}")
        assert response.status_code == 200, response.text
        assert response.json()["status"] == status
        answered: dict[str, Any] = response.json()
        return answered

    order("resume", "queued")
    for _ in range(2):
        assert order("pause", "paused")["queue_position"] is None
    order("resume", "queued")
    bench.claim()
    order("pause", "pausing")
    order("cancel", "canceling")
    problem = refused(client.post(f"/v1/jobs/{job['id']}/resume"), 409, "invalid_transition")
    assert problem["allowed"] == []

    other = posted()
    assert client.post(f"/v1/jobs/{other['id']}/pause").json()["status"] == "paused"
    done = client.post(f"/v1/jobs/{other['id']}/cancel").json()
    assert (done["status"], done["done"], done["conclusion"]) == ("canceled", True, "canceled")
    assert done["finished_at"]
    assert client.post(f"/v1/jobs/{other['id']}/cancel").json() == done
    refused(client.post(f"/v1/jobs/{other['id']}/pause"), 409, "invalid_transition")


def test_allowed_lists_the_verbs(client: TestClient, refused: Refused, posted: Posted, bench: Any) -> None:
    job = posted()
    bench.claim()
    client.post(f"/v1/jobs/{job['id']}/pause")
    problem = refused(client.post(f"/v1/jobs/{job['id']}/resume"), 409, "invalid_transition")
    assert problem["allowed"] == ["cancel"]


def test_queue_positions_are_those_of_the_claim(client: TestClient, posted: Posted, bench: Any) -> None:
    ids = [posted(priority=priority)["id"] for priority in (0, 5, 0, -5)]
    elsewhere = posted(pool="elsewhere")
    listed = {job["id"]: job["queue_position"] for job in client.get("/v1/jobs").json()["data"]}
    assert [listed[job_id] for job_id in ids] == [2, 1, 3, 4]
    assert listed[elsewhere["id"]] == 1
    assert bench.claim().id == ids[1]
    assert client.get(f"/v1/jobs/{ids[0]}").json()["queue_position"] == 1
    assert client.get(f"/v1/jobs/{ids[1]}").json()["queue_position"] is None


def test_a_list_by_status_and_model(client: TestClient, posted: Posted, bench: Any) -> None:
    first, second, third = posted(), posted(), posted(model=bench.model().id)
    client.post(f"/v1/jobs/{second['id']}/cancel")

    def ids(query: str) -> list[str]:
        return [job["id"] for job in client.get(f"/v1/jobs?{query}").json()["data"]]

    assert ids("") == [third["id"], second["id"], first["id"]]
    assert ids("status=canceled") == [second["id"]]
    assert ids("status=canceled&status=queued") == ids("")
    assert ids(f"model={third['model']}") == [third["id"]]
    assert ids(f"model={third['model']}&status=canceled") == []


def test_a_list_in_pages(client: TestClient, posted: Posted) -> None:
    made = [posted()["id"] for _ in range(5)]
    page = client.get("/v1/jobs?limit=2").json()
    assert page.keys() == {"object", "data", "has_more", "next_cursor"}
    seen = [job["id"] for job in page["data"]]
    posted()  # what comes between pages shifts nothing
    while page["has_more"]:
        page = client.get("/v1/jobs", params={"limit": 2, "after": page["next_cursor"]}).json()
        seen += [job["id"] for job in page["data"]]
    assert seen == made[::-1]
    assert page["next_cursor"] is None
    # A filter holds across pages.
    client.post(f"/v1/jobs/{made[0]}/cancel")
    client.post(f"/v1/jobs/{made[4]}/cancel")
    page = client.get("/v1/jobs?status=canceled&limit=1").json()
    rest = client.get("/v1/jobs", params={"status": "canceled", "limit": 1, "after": page["next_cursor"]}).json()
    assert [page["data"][0]["id"], rest["data"][0]["id"]] == [made[4], made[0]]
    assert (rest["has_more"], rest["next_cursor"]) == (False, None)


def test_what_a_job_refers_to_stays(client: TestClient, refused: Refused, posted: Posted) -> None:
    """Even when it is over: it says what it was made of."""
    job = posted()
    for _ in range(2):
        for path in (f"/v1/models/{job['model']}", f"/v1/datasets/{job['dataset']}"):
            refused(client.delete(path), 409, "in_use")
            assert client.get(path).json()["status"] == "ready"
        client.post(f"/v1/jobs/{job['id']}/cancel")


def test_polling_is_cheap(client: TestClient, posted: Posted) -> None:
    path = f"/v1/jobs/{posted()['id']}"
    etag = client.get(path).headers["etag"]
    assert etag == '"r1"'
    for given in (etag, f"W/{etag}", f'"r0", {etag}', "*"):
        unchanged = client.get(path, headers={"If-None-Match": given})
        assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", etag)
    client.post(f"{path}/pause")
    changed = client.get(path, headers={"If-None-Match": etag})
    assert (changed.status_code, changed.headers["etag"]) == (200, '"r2"')


def test_progress(client: TestClient, posted: Posted, bench: Any) -> None:
    job_id = posted(recipe={"strategy": "lottery_ticket_continue", "stop": {"rounds": 2}})["id"]
    job = bench.claim()

    def progress(live: dict[str, Any] | None = None) -> dict[str, Any]:
        if live:
            with bench.database.transaction() as session:
                jobs.renew(session, job.id, job.attempt, 60, live)
        found: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()["progress"]
        return found

    assert progress() == {"round": None, "rounds": 2, "fraction": 0.0, "eta_seconds": None}
    with bench.database.transaction() as session:
        session.execute(update(Job).values(started_at=1.0))
    half = progress({"round": 0, "step": 50, "steps": 100})  # of four entries: 0, 1, 2, final
    assert (half["round"], half["fraction"]) == (0, 0.125)
    # From this attempt's pace, not from a start that may lie before a pause of days.
    assert 0 < half["eta_seconds"] < 60
    bench.store_round(job, 0, 0.9, 0.0)
    stale = progress()  # the last renewal still tells of round 0
    assert (stale["round"], stale["fraction"]) == (0, 0.25)
    assert progress({"round": 1, "step": 100, "steps": 100})["fraction"] == 0.5
    bench.store_round(job, 1, 0.9, 0.2)
    bench.store_round(job, 2, 0.9, 0.4)
    last = progress({"round": None, "step": 50, "steps": 100})
    assert (last["round"], last["fraction"]) == ("final", 0.875)
    bench.store_round(job, 3, 0.9, 0.4, final=True)
    bench.complete(job, 3)
    done = client.get(f"/v1/jobs/{job_id}").json()
    assert done["progress"] == {"round": "final", "rounds": 2, "fraction": 1.0, "eta_seconds": None}
    assert (done["selected_round"], done["status"], done["conclusion"]) == ("final", "succeeded", "passed")


def test_a_job_that_its_floor_ends_is_complete(client: TestClient, posted: Posted, bench: Any) -> None:
    job_id = posted()["id"]
    job = bench.claim()
    bench.store_round(job, 0, 0.9, 0.0)
    bench.store_round(job, 1, 0.5, 0.2)
    bench.complete(job, 0)
    done = client.get(f"/v1/jobs/{job_id}").json()
    assert (done["progress"]["fraction"], done["progress"]["round"], done["selected_round"]) == (1.0, 1, 0)


def test_attempts_tell_why_they_ended(client: TestClient, posted: Posted, bench: Any) -> None:
    job_id = posted()["id"]
    for _ in range(2):
        job = bench.claim()
        with bench.database.transaction() as session:
            jobs.lose(session, job.id, job.attempt, "killed by signal 9")
    bench.claim()
    shown = client.get(f"/v1/jobs/{job_id}").json()
    assert [attempt["number"] for attempt in shown["attempts"]] == [1, 2, 3]
    assert shown["attempts"][0].keys() == {"number", "started_at", "ended_at", "reason", "worker"}
    assert shown["attempts"][0]["reason"] == "killed by signal 9"
    assert shown["attempts"][2]["ended_at"] is None
    assert (shown["failures"], shown["status"]) == (2, "running")
    assert shown["started_at"]


def test_a_failed_job_says_why(client: TestClient, posted: Posted, bench: Any) -> None:
    job_id = posted()["id"]
    job = bench.claim()
    error = {"code": "diverged", "message": "the loss is not finite", "retryable": False}
    with bench.database.transaction() as session:
        jobs.record_determinism(session, job.id, job.attempt, {"device": "cpu", "threads": 1})
        jobs.fail(session, job.id, job.attempt, error)
    shown = client.get(f"/v1/jobs/{job_id}").json()
    assert (shown["status"], shown["conclusion"], shown["error"]) == ("failed", "error", error)
    assert shown["determinism"] == {"device": "cpu", "threads": 1}
    assert shown["progress"]["fraction"] == 0.0


def test_events(client: TestClient, posted: Posted, bench: Any) -> None:
    job_id = posted()["id"]
    bench.store_round(bench.claim(), 0, 0.9, 0.0)
    client.post(f"/v1/jobs/{job_id}/cancel")
    page = client.get(f"/v1/jobs/{job_id}/events").json()
    assert [event["sequence"] for event in page["data"]] == [1, 2, 3, 4]
    assert [event["type"] for event in page["data"]] == ["job.queued", "job.running", "round.stored", "job.canceling"]
    assert page["data"][2]["data"]["position"] == 0
    assert page["data"][0]["at"].endswith("Z")
    first = client.get(f"/v1/jobs/{job_id}/events?limit=3").json()
    assert (first["has_more"], first["next_cursor"]) == (True, "3")
    rest = client.get(f"/v1/jobs/{job_id}/events?after={first['next_cursor']}").json()
    assert [event["sequence"] for event in rest["data"]] == [4]
    assert (rest["has_more"], rest["next_cursor"]) == (False, None)


def test_what_came_as_a_program_goes_out_as_one_too(client: TestClient, bench: Any, body: dict[str, Any]) -> None:
    body["model"] = bench.model(format="exported_program").id
    assert client.post("/v1/jobs", json=body).json()["artifacts"] == ["model", "masks", "ticket", "program", "card"]
    assert client.post("/v1/jobs", json={**body, "artifacts": ["masks"]}).json()["artifacts"] == ["masks"]
