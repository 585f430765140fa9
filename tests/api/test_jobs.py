"""Jobs over HTTP: what is made, what is refused before any training, and what orders do."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
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


def test_a_job_has_every_promised_field(client: TestClient, posted: Posted, body: dict[str, Any]) -> None:
    job = posted()
    promised = {
        "id", "object", "status", "done", "conclusion", "model", "dataset", "recipe", "progress", "selected_round",
        "gates", "attempts", "error", "determinism", "created_at", "started_at", "finished_at", "expires_at",
    }  # fmt: skip
    assert promised <= job.keys()
    assert {"select", "pool", "priority", "queue_position", "failures", "metadata", "artifacts"} <= job.keys()
    assert (job["object"], job["status"], job["done"], job["conclusion"]) == ("job", "queued", False, None)
    assert (job["model"], job["dataset"]) == (body["model"], body["dataset"])
    assert job["progress"] == {"round": None, "rounds": 15, "fraction": 0.0, "eta_seconds": None}
    assert (job["queue_position"], job["attempts"], job["gates"], job["selected_round"]) == (1, [], [], None)
    assert job["select"] == "smallest_passing"
    assert datetime.fromisoformat(job["created_at"]).utcoffset().total_seconds() == 0
    assert abs(datetime.fromisoformat(job["created_at"]).timestamp() - time.time()) < 60
    assert client.get(f"/v1/jobs/{job['id']}").json() == job


def test_what_is_left_out_is_filled_in_and_echoed(posted: Posted) -> None:
    recipe = posted(recipe={"strategy": "dropnet", "training": {"epochs": 3}})["recipe"]
    assert recipe["criterion"] == {"name": "activation", "keep": "high"}
    assert recipe["finally"] == {"weights": "none", "train": False}
    assert recipe["training"]["epochs"] == 3
    assert recipe["training"]["early_stopping"] == {"patience": 5}
    assert recipe["stop"]["accuracy_floor"]["factor"] == 0.98


def test_what_is_given_is_echoed(client: TestClient, posted: Posted) -> None:
    job = posted(**FULL)
    assert {key: job[key] for key in FULL} == FULL
    assert posted()["pool"] == client.get("/v1/capabilities").json()["default_pool"]


def test_a_post_rings_its_pool(client: TestClient, posted: Posted, bench: Any, refused: Refused) -> None:
    with Redis.from_url(bench.settings.broker_url) as broker:
        pool = bench.settings.default_pool + "-jobs"
        job = posted(pool=pool)
        assert broker.llen(pool) == 1
        client.post(f"/v1/jobs/{job['id']}/pause")
        assert broker.llen(pool) == 1
        client.post(f"/v1/jobs/{job['id']}/resume")
        assert broker.llen(pool) == 2


def test_location_and_status(client: TestClient, body: dict[str, Any]) -> None:
    response = client.post("/v1/jobs", json=body)
    assert response.status_code == 201
    assert response.headers["location"] == f"/v1/jobs/{response.json()['id']}"


def test_validate_only_plans_and_stores_nothing(client: TestClient, body: dict[str, Any], refused: Refused) -> None:
    body["recipe"]["stop"] = {"rounds": None, "sparsity": 0.5}
    response = client.post("/v1/jobs?validate_only=true", json=body)
    assert response.status_code == 200
    plan = response.json()
    assert plan["object"] == "plan"
    assert plan["recipe"]["training"]["steps"] == 2000
    assert [row["number"] for row in plan["rounds"]] == [0, 1, 2, 3, 4]
    assert plan["rounds"][1]["num_remaining"] == 1920 - 384 + 300 - 30
    assert plan["rounds"][3]["sparsity"] < 0.5 <= plan["rounds"][4]["sparsity"]
    assert client.get("/v1/jobs").json()["data"] == []
    body["recipe"]["stop"] = {"sparsity": 0.99}
    refused(client.post("/v1/jobs?validate_only=true", json=body), 422, "recipe_refused", "/recipe/stop/sparsity")


def recipe(**sections: Any) -> dict[str, Any]:
    return {"recipe": {"strategy": "lottery_ticket_reset", **sections}}


def test_fields_that_are_wrong(
    client: TestClient, refused: Refused, body: dict[str, Any], subtests: pytest.Subtests
) -> None:
    for changes, param, word in [
        ({"surprise": 1}, "/surprise", "Extra inputs"),
        ({"model": None}, "/model", "string"),
        ({"model": "mdl 1"}, "/model", "pattern"),
        ({"recipe": None}, "/recipe", ""),
        (recipe(strategy="lottery"), "/recipe/strategy", "there is no strategy"),
        (recipe(strategy=None), "/recipe/criterion", "required"),
        (recipe(surprise=1), "/recipe/surprise", "Extra inputs"),
        (recipe(schedule={"fraction": 1}), "/recipe/schedule/fraction", "less than 1"),
        (recipe(schedule={"kind": "odd", "fraction": 0.1}), "/recipe/schedule/kind", "'fraction'"),
        (recipe(criterion={"name": "activation"}), "/recipe/granularity", "set granularity to unit"),
        (recipe(training={"steps": 0}), "/recipe/training/steps", "greater than"),
        (recipe(training={"steps": 1, "epochs": 1}), "/recipe/training", "exactly one of steps and epochs"),
        (recipe(training={"preprocessing": {"mean": "a"}}), "/recipe/training/preprocessing/mean", "number"),
        (recipe(training={"preprocessing": {"std": [1, 0]}}), "/recipe/training/preprocessing/std", "greater than 0"),
        (recipe(training={"preprocessing": {"std": [1, "a"]}}), "/recipe/training/preprocessing/std", "number"),
        (recipe(stop={"rounds": None}), "/recipe/stop", "nothing would end the job"),
        (recipe(stop={"accuracy_floor": {"factor": 1, "value": 0.5}}), "/recipe/stop/accuracy_floor", "not both"),
        (recipe(scope={"overrides": {"fc1": {"rate": -1}}}), "/recipe/scope/overrides/fc1/rate", "greater than 0"),
        (recipe(**{"finally": {"weights": "odd"}}), "/recipe/finally/weights", "'none'"),
        ({"gates": [{"metric": "accuracy", "value": 1}, {"metric": "f1", "value": 1}]}, "/gates/1/metric", "'loss'"),
        ({"gates": [{"metric": "accuracy", "value": 0.9, "split": "test"}]}, "/gates/0/split", "'validation'"),
        ({"select": "first"}, "/select", "'best'"),
        ({"pool": "no pool"}, "/pool", "pattern"),
        ({"pool": ""}, "/pool", "pattern"),
        ({"priority": 101}, "/priority", "100"),
        ({"priority": 0.5}, "/priority", "integer"),
        ({"max_failures": 0}, "/max_failures", "1"),
        ({"deadline_seconds": 0}, "/deadline_seconds", "greater than 0"),
        ({"queue_timeout_seconds": -1}, "/queue_timeout_seconds", "greater than 0"),
        ({"keep_rounds": "some"}, "/keep_rounds", "'all'"),
        ({"cache": "maybe"}, "/cache", "'on'"),
        ({"artifacts": ["model", "onnx"]}, "/artifacts/1", "'ticket'"),
        ({"artifacts": []}, "/artifacts", "at least 1"),
        ({"metadata": {"a": 1}}, "/metadata/a", "string"),
        ({"metadata": {f"k{i}": "" for i in range(17)}}, "/metadata", "16"),
    ]:
        with subtests.test(changes=changes, param=param, word=word):
            problem = refused(client.post("/v1/jobs", json={**body, **changes}), 422, "invalid_request", param)
            assert word in problem["errors"][0]["message"]
            assert client.get("/v1/jobs").json()["data"] == []


def test_every_wrong_field_is_told_at_once(client: TestClient, refused: Refused) -> None:
    problem = refused(client.post("/v1/jobs", json={"priority": 1000}), 422, "invalid_request", "/model")
    assert [fault["param"] for fault in problem["errors"]] == ["/model", "/dataset", "/recipe", "/priority"]
    assert [fault["code"] for fault in problem["errors"]] == ["missing"] * 3 + ["less_than_equal"]
    assert problem["detail"].startswith("4 errors")


def test_recipes_that_cannot_work_on_this_model(
    client: TestClient, refused: Refused, body: dict[str, Any], subtests: pytest.Subtests
) -> None:
    for sections, param, word in [
        ({"stop": {"sparsity": 0.99}}, "/recipe/stop/sparsity", "set stop.rounds to"),
        ({"scope": {"overrides": {"fc9": {"ignore": True}}}}, "/recipe/scope/overrides/fc9", "did you mean fc2, fc1"),
        (
            {"scope": {"kind": "layerwise", "overrides": {"fc1": {"ignore": True}, "output": {"ignore": True}}}},
            "/recipe/scope/overrides",
            "left to prune",
        ),
        ({"training": {"batch_size": 1001}}, "/recipe/training/batch_size", "set it to 1000 or less"),
        (
            {"training": {"preprocessing": {"mean": [0.1, 0.2]}}},
            "/recipe/training/preprocessing/mean",
            "one value for each",
        ),
        (
            {"granularity": "unit", "scope": {"overrides": {"fc1": {"min_units": 31}}}},
            "/recipe/scope/overrides/fc1/min_units",
            "only 30 units",
        ),
    ]:
        with subtests.test(sections=sections, param=param, word=word):
            problem = refused(
                client.post("/v1/jobs", json={**body, **recipe(**sections)}), 422, "recipe_refused", param
            )
            assert word in problem["detail"]
            assert client.get("/v1/jobs").json()["data"] == []


def test_units_that_cannot_be_pruned(client: TestClient, refused: Refused, body: dict[str, Any], bench: Any) -> None:
    report = bench.model_report()
    for layer in report["layers"]:
        layer |= {"prunable": ["weight"], "group": None, "reason": "its units are summed with others"}
    body["model"] = bench.model(report).id
    assert client.post("/v1/jobs", json=body).status_code == 201
    body["recipe"] = {"strategy": "dropnet"}
    problem = refused(client.post("/v1/jobs", json=body), 422, "recipe_refused", "/recipe/granularity")
    assert "summed with others" in problem["detail"]


def test_datasets_that_do_not_fit(
    client: TestClient, refused: Refused, bench: Any, body: dict[str, Any], subtests: pytest.Subtests
) -> None:
    for model_changes, dataset_changes, word in [
        ({"input_shape": [1, 28, 28]}, {}, "[1, 28, 28]"),
        ({}, {"input_shape": [64]}, "[64]"),
        ({}, {"num_classes": 11}, "num_classes=11"),
        ({"num_outputs": 2}, {}, "2 outputs"),
    ]:
        with subtests.test(model_changes=model_changes, dataset_changes=dataset_changes, word=word):
            body["model"] = bench.model(bench.model_report(**model_changes)).id
            body["dataset"] = bench.dataset(bench.dataset_report(**dataset_changes)).id
            problem = refused(client.post("/v1/jobs", json=body), 422, "dataset_mismatch", "/dataset")
            assert word in problem["detail"]


def test_the_validation_split_is_taken_from_train(
    client: TestClient, refused: Refused, bench: Any, body: dict[str, Any]
) -> None:
    def post(num_examples: int, batch_size: int) -> Any:
        body["dataset"] = bench.dataset(bench.dataset_report("train", num_examples=num_examples)).id
        return client.post("/v1/jobs", json={**body, **recipe(training={"batch_size": batch_size})})

    assert post(100, 90).status_code == 201
    refused(post(100, 91), 422, "recipe_refused", "/recipe/training/batch_size")
    refused(post(9, 1), 422, "dataset_mismatch", "/dataset")
    assert post(10, 9).status_code == 201


def test_fewer_classes_than_outputs_fit(client: TestClient, bench: Any, body: dict[str, Any]) -> None:
    body["dataset"] = bench.dataset(bench.dataset_report(num_classes=3)).id
    assert client.post("/v1/jobs", json=body).status_code == 201


def test_what_a_job_refers_to_must_be_ready(
    client: TestClient, refused: Refused, bench: Any, body: dict[str, Any]
) -> None:
    error = {"code": "invalid_content", "message": "the sky fell", "retryable": False}
    for kind, add in (("model", bench.model), ("dataset", bench.dataset)):
        unknown = f"{'mdl' if kind == 'model' else 'ds'}_unknown"
        refused(client.post("/v1/jobs", json={**body, kind: unknown}), 422, "not_found", f"/{kind}")
        invalid = client.post("/v1/jobs", json={**body, kind: add(error=error).id})
        assert "the sky fell" in refused(invalid, 422, "invalid_reference", f"/{kind}")["detail"]
    waiting = client.post("/v1/models?format=architecture&architecture=lenet5").json()
    response = client.post("/v1/jobs", json={**body, "model": waiting["id"]})
    assert refused(response, 409, "not_ready", "/model")["retryable"] is True
    assert response.headers["retry-after"] == "1"


def test_a_reference_of_the_other_kind_is_unknown(client: TestClient, refused: Refused, body: dict[str, Any]) -> None:
    swapped = {**body, "model": body["dataset"], "dataset": body["model"]}
    refused(client.post("/v1/jobs", json=swapped), 422, "not_found", "/model")


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
    page = client.get("/v1/jobs?limit=2").json()
    assert page["has_more"] is True
    assert ids(f"limit=2&after={page['next_cursor']}") == [first["id"]]


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


def test_another_projects_job_is_as_none(
    client: TestClient, refused: Refused, posted: Posted, other: dict[str, str], bench: Any, subtests: pytest.Subtests
) -> None:
    for method, path in [
        ("GET", ""),
        ("POST", "/cancel"),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("GET", "/events"),
        ("GET", "/rounds"),
        ("GET", "/rounds/0"),
        ("GET", "/artifacts"),
    ]:
        with subtests.test(method=method, path=path):
            job_id = posted()["id"]
            bench.store_round(bench.claim(), 0, 0.9, 0.0)
            theirs = refused(client.request(method, f"/v1/jobs/{job_id}{path}", headers=other), 404, "not_found")
            none = refused(client.request(method, f"/v1/jobs/job_1{path}", headers=other), 404, "not_found")
            assert theirs["detail"].replace(job_id, "job_1") == none["detail"]
            assert client.get("/v1/jobs", headers=other).json()["data"] == []
            assert client.get(f"/v1/jobs/{job_id}").json()["status"] == "running"
