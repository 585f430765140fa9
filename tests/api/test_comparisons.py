"""Several recipes and seeds, made, ordered and read as one."""

from __future__ import annotations

import csv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import select
from starlette.testclient import TestClient

from store import jobs
from store.tables import Comparison, Delivery
from store.transitions import Trigger
from worker.conclusions import conclude_comparisons

Refused = Callable[..., dict[str, Any]]
Compared = Callable[..., dict[str, Any]]

RECIPES = [
    {"name": "reset", "recipe": {"strategy": "lottery_ticket_reset", "stop": {"rounds": 2}}},
    {"name": "continue", "recipe": {"strategy": "lottery_ticket_continue", "stop": {"rounds": 2}}},
]


@pytest.fixture
def asked(body: dict[str, Any]) -> dict[str, Any]:
    """Two recipes, two seeds."""
    return {"model": body["model"], "dataset": body["dataset"], "recipes": RECIPES, "seeds": [3, 5]}


@pytest.fixture
def compared(client: TestClient, asked: dict[str, Any]) -> Compared:
    def post(**changes: Any) -> dict[str, Any]:
        response = client.post("/v1/comparisons", json={**asked, **changes})
        assert response.status_code == 201, response.text
        document: dict[str, Any] = response.json()
        return document

    return post


def run(bench: Any, accuracy: Callable[[str, int, int], float], num_jobs: int = 4) -> None:
    """Works as a worker does, `accuracy(strategy, seed, round)`; a third of the weights goes in each round."""
    for _ in range(num_jobs):
        job = bench.claim()
        strategy, seed = job.recipe["strategy"], job.recipe["seed"]
        for number, removed in enumerate((0.0, 0.2, 0.4)):
            value = accuracy(strategy, seed, number)
            bench.store_round(job, number, value, removed, compression_ratio=1 / (1 - removed))
        bench.complete(job, 2)


def falling(strategy: str, seed: int, number: int) -> float:
    """reset keeps all of 0.9; continue loses 0.1 a round; seed 5 is 0.01 better."""
    return 0.9 - (0.1 * number if strategy == "lottery_ticket_continue" else 0.0) + (0.01 if seed == 5 else 0.0)


def test_posted_it_is_jobs_and_their_rounds_are_a_table(client: TestClient, compared: Compared, bench: Any) -> None:
    with Redis.from_url(bench.settings.broker_url) as broker:
        before = broker.llen(bench.settings.default_pool)
        whole = compared()
        assert broker.llen(bench.settings.default_pool) == before + 4
    assert (whole["status"], whole["done"], whole["conclusion"]) == ("queued", False, None)
    assert [(part["recipe"], part["seed"]) for part in whole["parts"]] == [
        *(("reset", 3), ("reset", 5)),
        *(("continue", 3), ("continue", 5)),
    ]
    assert whole["goal"]["keep_ratio"] == 0.99
    for part in whole["parts"]:
        job = client.get(f"/v1/jobs/{part['job']}").json()
        assert (job["comparison"], job["recipe"]["seed"]) == (whole["id"], part["seed"])
        assert {**job["recipe"], "seed": None} == {
            **next(r["recipe"] for r in whole["recipes"] if r["name"] == part["recipe"]),
            "seed": None,
        }
    run(bench, falling)

    table = client.get(f"/v1/comparisons/{whole['id']}/table").json()
    assert table["metric"] == "accuracy"
    last = next(row for row in table["data"] if (row["recipe"], row["round"]) == ("continue", 2))
    assert (last["num_seeds"], last["sparsity"]) == (2, 0.4)
    assert last["removed"] == pytest.approx(0.4)
    assert last["mean"] == pytest.approx(0.705)
    assert last["std"] == pytest.approx(0.01 / 2**0.5)
    text = client.get(f"/v1/comparisons/{whole['id']}/table.csv").text
    [*rows] = csv.DictReader(text.splitlines())
    assert [float(row["mean"]) for row in rows] == [row["mean"] for row in table["data"]]

    best = client.get(f"/v1/comparisons/{whole['id']}/recommendation").json()
    assert (best["recipe"], best["round"], best["held"], best["met"], best["final"]) == ("reset", 2, 2, True, True)
    assert client.get(f"/v1/comparisons/{whole['id']}").json()["conclusion"] == "passed"


def test_all_of_it_is_checked_and_counted_before_it_is_made(client: TestClient, asked: dict[str, Any]) -> None:
    changes: dict[str, Any] = {"budget": {"steps": 900}, "controls": ["random_mask"], "metadata": {"sha": "1a"}}
    response = client.post("/v1/comparisons", params={"validate_only": True}, json={**asked, **changes})
    assert response.status_code == 200, response.text
    plan = response.json()
    assert (plan["object"], plan["num_jobs"], plan["seeds"]) == ("comparison_plan", 4, [3, 5])
    reset, going_on = plan["recipes"]
    # Three entries, and four with the final one, share the steps; what goes on from trained weights has no control.
    assert (reset["recipe"]["training"]["steps"], reset["recipe"]["controls"]) == (300, ["random_mask"])
    assert (going_on["recipe"]["training"]["steps"], going_on["recipe"]["controls"]) == (225, [])
    assert (reset["num_rounds"], reset["estimate"]["basis"]) == (2, "unknown")
    assert client.get("/v1/comparisons").json()["data"] == []
    assert client.get("/v1/jobs").json()["data"] == []


@pytest.mark.parametrize(
    ("budget", "path", "expected"),
    [
        ({"steps_per_round": 50}, ("training", "steps"), [50, 50]),
        ({"seconds": 60}, ("stop", "seconds"), [60, 60]),
        (None, ("training", "steps"), [2000, 2000]),
    ],
)
def test_a_budget_is_the_same_for_all(
    client: TestClient, compared: Compared, budget: Any, path: tuple[str, str], expected: list[int]
) -> None:
    whole = compared(budget=budget)
    assert [recipe["recipe"][path[0]][path[1]] for recipe in whole["recipes"]] == expected
    assert whole["budget"] == budget


def test_a_grid_is_every_combination(client: TestClient, asked: dict[str, Any]) -> None:
    grid = {
        "recipe": {"strategy": "lottery_ticket_reset", "stop": {"rounds": 2}},
        "axes": {"/schedule/fraction": [0.2, 0.5], "/scope": [{"kind": "layerwise"}, {"kind": "global"}]},
    }
    # A scope of another kind takes the place of the strategy's whole, overrides and all.
    response = client.post("/v1/comparisons", json={**asked, "recipes": None, "grid": grid})
    assert response.status_code == 201, response.text
    recipes = response.json()["recipes"]
    assert [recipe["name"] for recipe in recipes] == [
        *("fraction=0.2, scope=-1", "fraction=0.2, scope=-2", "fraction=0.5, scope=-1", "fraction=0.5, scope=-2"),
    ]
    assert [(r["recipe"]["schedule"]["fraction"], r["recipe"]["scope"]["kind"]) for r in recipes] == [
        *((0.2, "layerwise"), (0.2, "global"), (0.5, "layerwise"), (0.5, "global")),
    ]


GRID = {"recipe": {"strategy": "lottery_ticket_reset"}, "axes": {"/schedule/fraction": [0.2, 0.5]}}
REFUSALS: list[tuple[dict[str, Any], str, str, str]] = [
    ({"recipes": []}, "invalid_request", "/recipes", "at least 1"),
    ({"recipes": None}, "invalid_request", "", "either recipes or a grid"),
    ({"grid": GRID}, "invalid_request", "", "either recipes or a grid"),
    ({"recipes": None, "grid": {**GRID, "axes": {}}}, "invalid_request", "/grid/axes", "at least 1"),
    (
        {"recipes": None, "grid": {**GRID, "axes": {"/schedule/fraction": []}}},
        *("invalid_request", "/grid/axes/~1schedule~1fraction", "at least 1"),
    ),
    (
        {"recipes": None, "grid": {**GRID, "axes": {"/seed": list(range(40)), "/stop/rounds": list(range(1, 21))}}},
        *("invalid_request", "/grid/axes", "would make 1600 jobs; a comparison may have 50 recipes and 200 jobs"),
    ),
    (
        {"recipes": None, "grid": {**GRID, "axes": {"/schedule/fraction": [0.2, 7]}}},
        *("invalid_request", "/grid/axes/~1schedule~1fraction/1", "fraction=7: "),
    ),
    (
        {"recipes": None, "grid": {**GRID, "axes": {"/schedule/fraction": [0.2, 0.2]}}},
        *("invalid_request", "/grid/axes/~1schedule~1fraction/1", "twice"),
    ),
    (
        {"recipes": None, "grid": {**GRID, "axes": {"/stop": [{"rounds": 2}], "/stop/rounds": [3]}}},
        *("invalid_request", "/grid/axes/~1stop~1rounds", "lies within"),
    ),
    ({"seeds": [3, 5, 3]}, "invalid_request", "/seeds/2", "the seed 3 came before"),
    ({"goal": {"keep_ratio": 0.9}}, "invalid_request", "/goal/metric", "Field required"),
    ({"goal": {"metric": "r2", "value": 0.9}}, "invalid_request", "/goal/metric", "do not measure r2"),
    ({"goal": {"metric": "accuracy", "value": 0.9, "min_seeds": 3}}, "invalid_request", "/goal/min_seeds", "2 seeds"),
    ({"gates": [{"metric": "mae", "value": 1}]}, "invalid_request", "/gates/0/metric", "do not measure mae"),
    ({"budget": {"steps": 3, "seconds": 1}}, "invalid_request", "/budget", "exactly one"),
    ({"budget": {"steps": 3}}, "recipe_refused", "/budget/steps", "continue trains 4 entries"),
    ({"recipes": [RECIPES[0], RECIPES[0]]}, "invalid_request", "/recipes/1/name", "the name reset came before"),
    ({"recipes": [RECIPES[1]], "controls": ["random_mask"]}, "recipe_refused", "/controls", "every recipe here"),
    ({"artifacts": ["plan"]}, "recipe_refused", "/artifacts/0", "reset: plan is what is left"),
]


def test_what_cannot_be_compared_is_refused_by_field(
    client: TestClient, asked: dict[str, Any], refused: Refused, subtests: pytest.Subtests
) -> None:
    for changes, code, param, said in REFUSALS:
        with subtests.test(changes=changes):
            problem = refused(client.post("/v1/comparisons", json={**asked, **changes}), 422, code, param)
            assert said in problem["detail"]
    assert client.get("/v1/jobs").json()["data"] == []


def other(**recipe: Any) -> dict[str, Any]:
    return {"name": "other", "recipe": {"strategy": "lottery_ticket_reset", **recipe}}


FAULTS: list[tuple[dict[str, Any], dict[str, Any] | None, str, str, str]] = [
    (other(seed=1), None, "recipe_refused", "/seed", "other: the seeds of a comparison are its own"),
    (other(strategy="no such"), None, "invalid_request", "/strategy", "other: there is no strategy"),
    (other(schedule={"fraction": 2}), None, "invalid_request", "/schedule/fraction", "other: "),
    (other(stop={"sparsity": 0.9999999}), None, "recipe_refused", "/stop/sparsity", "other: sparsity"),
    (other(training={"batch_size": 5000}), None, "recipe_refused", "/training/batch_size", "other: a batch"),
    (other(training={"steps": 9}), None, "recipe_refused", "/training", "other trains 9 steps a round, and reset"),
    (
        *(other(training={"steps": 9}), {"steps_per_round": 50}),
        *("recipe_refused", "/training/steps", "the budget sets training.steps to 50, and the recipe says"),
    ),
    (
        *(other(training={"epochs": 9}), {"steps": 50}),
        *("recipe_refused", "/training/epochs", "recipe says epochs 9"),
    ),
    (other(stop={"seconds": 9}), {"seconds": 5}, "recipe_refused", "/stop/seconds", "stop.seconds to 5"),
    (
        *(other(training={"loss": "mse"}), None),
        *("recipe_refused", "/training/loss", "other: mse is for regression targets"),
    ),
]


def test_a_fault_is_told_of_its_recipe(
    client: TestClient, asked: dict[str, Any], refused: Refused, subtests: pytest.Subtests
) -> None:
    for recipe, budget, code, field, said in FAULTS:
        with subtests.test(recipe=recipe, budget=budget):
            posted = client.post("/v1/comparisons", json={**asked, "recipes": [RECIPES[0], recipe], "budget": budget})
            problem = refused(posted, 422, code, f"/recipes/1/recipe{field}")
            assert said in problem["detail"]


def test_losses_of_different_tasks_are_not_compared(client: TestClient, bench: Any, refused: Refused) -> None:
    """On targets that two losses take."""
    report = bench.dataset_report(task="multi_label", target_shape=[10], num_classes=None)
    recipes = [
        {"name": loss, "recipe": {**RECIPES[0]["recipe"], "training": {"loss": loss}}}
        for loss in ("binary_cross_entropy", "mse")
    ]
    asked = {"model": bench.model().id, "dataset": bench.dataset(report).id, "recipes": recipes}
    problem = refused(
        client.post("/v1/comparisons", json=asked), 422, "recipe_refused", "/recipes/1/recipe/training/loss"
    )
    assert "mse trains with the loss mse, which measures loss, mae, r2, and binary_cross_entropy" in problem["detail"]


def test_a_quota_counts_all_jobs_and_lets_in_all_or_none(
    client: TestClient, asked: dict[str, Any], refused: Refused, project: str
) -> None:
    changed = client.patch(f"/v1/projects/{project}", json={"quotas": {"live_jobs": 3}})
    assert changed.status_code == 200, changed.text
    problem = refused(client.post("/v1/comparisons", json=asked), 403, "quota_exceeded")
    assert (problem["limit"], problem["used"]) == (3, 4)
    assert client.get("/v1/jobs").json()["data"] == client.get("/v1/comparisons").json()["data"] == []
    assert client.post("/v1/comparisons", json={**asked, "seeds": [3]}).status_code == 201


def test_a_request_that_is_sent_again_is_done_once(client: TestClient, asked: dict[str, Any]) -> None:
    first, again = (client.post("/v1/comparisons", json=asked, headers={"Idempotency-Key": "one"}) for _ in range(2))
    assert again.headers["idempotent-replayed"] == "true"
    assert first.json() == again.json()
    assert len(client.get("/v1/jobs").json()["data"]) == 4


def test_it_is_listed_by_what_it_is_of(client: TestClient, compared: Compared) -> None:
    first = compared(metadata={"sha": "1a"})
    second = compared(seeds=[1], metadata={"sha": "2b"})

    def ids(**params: Any) -> list[str]:
        return [row["id"] for row in client.get("/v1/comparisons", params=params).json()["data"]]

    assert ids() == [second["id"], first["id"]]
    assert ids(limit=1) == [second["id"]]
    assert ids(after=second["id"]) == [first["id"]]
    assert ids(**{"metadata[sha]": "1a"}) == [first["id"]]
    assert ids(model=first["model"], done=False) == [second["id"], first["id"]]
    assert ids(done=True) == ids(created_before=first["created_at"]) == []
    client.post(f"/v1/comparisons/{first['id']}/cancel")
    assert ids(done=True) == [first["id"]]


def statuses(whole: dict[str, Any]) -> list[str]:
    return [part["status"] for part in whole["parts"]]


def sweep(bench: Any) -> int:
    with bench.database.transaction() as session:
        return conclude_comparisons(session)


def test_verbs_act_on_the_whole_and_each_part_has_its_own(
    client: TestClient, compared: Compared, bench: Any, refused: Refused
) -> None:
    whole = compared()
    path = f"/v1/comparisons/{whole['id']}"
    job = bench.claim()
    paused = client.post(f"{path}/pause").json()
    assert (paused["status"], sorted(statuses(paused))) == ("pausing", ["paused"] * 3 + ["pausing"])
    assert client.post(f"{path}/pause").json() == paused
    bench.store_round(job, 0, 0.9, 0.0)
    with bench.database.transaction() as session:
        jobs.give_back(session, job.id, job.attempt, Trigger.STOP, "paused")
    assert client.get(path).json()["status"] == "paused"
    assert refused(client.post(f"{path}/retry"), 409, "invalid_transition")["allowed"] == ["cancel", "resume"]

    with Redis.from_url(bench.settings.broker_url) as broker:
        before = broker.llen(bench.settings.default_pool)
        resumed = client.post(f"{path}/resume").json()
        assert broker.llen(bench.settings.default_pool) == before + 4
    assert (resumed["status"], statuses(resumed)) == ("running", ["queued"] * 4)
    one = resumed["parts"][0]["job"]
    assert client.post(f"/v1/jobs/{one}/cancel").status_code == 200
    assert client.get(path).json()["status"] == "running"
    canceled = client.post(f"{path}/cancel").json()
    assert (canceled["status"], canceled["conclusion"], canceled["progress"]["done"]) == ("canceled", "canceled", 4)
    assert client.post(f"{path}/cancel").json() == canceled
    assert refused(client.post(f"{path}/pause"), 409, "invalid_transition")["allowed"] == ["retry"]


def test_a_retry_takes_the_place_of_what_failed(client: TestClient, compared: Compared, bench: Any) -> None:
    whole = compared(recipes=RECIPES[:1])
    path = f"/v1/comparisons/{whole['id']}"
    failed = bench.claim()
    with bench.database.transaction() as session:
        jobs.fail(session, failed.id, failed.attempt, {"code": "diverged", "message": "step 3", "retryable": False})
    run(bench, falling, 1)
    ended = client.get(path).json()
    assert (ended["status"], ended["conclusion"]) == ("failed", "error")
    assert client.get(f"{path}/recommendation").json()["met"] is False, "it held in one seed of two"
    assert sweep(bench) == 1
    etag = client.get(path).headers["etag"]

    again = client.post(f"{path}/retry").json()
    assert (again["status"], again["conclusion"], sorted(statuses(again))) == ("running", None, ["queued", "succeeded"])
    [part] = [part for part in again["parts"] if part["status"] == "queued"]
    assert client.get(f"/v1/jobs/{part['job']}").json()["retried_from"] == failed.id
    assert client.post(f"{path}/retry").json()["parts"] == again["parts"]
    assert client.get(path).headers["etag"] != etag
    assert sweep(bench) == 0
    run(bench, falling, 1)
    assert sweep(bench) == 1
    assert client.get(path).json()["conclusion"] == "passed"


def test_the_retry_of_a_part_alone_takes_its_place_too(client: TestClient, compared: Compared) -> None:
    whole = compared(seeds=[3], recipes=RECIPES[:1])
    first = whole["parts"][0]["job"]
    client.post(f"/v1/jobs/{first}/cancel")
    retried = client.post(f"/v1/jobs/{first}/retry").json()
    assert retried["comparison"] == whole["id"]
    assert client.get(f"/v1/comparisons/{whole['id']}").json()["parts"][0]["job"] == retried["id"]


def test_its_end_is_told_once(client: TestClient, compared: Compared, bench: Any) -> None:
    hook = client.post("/v1/webhooks", json={"url": "https://example.com", "events": ["comparison.succeeded"]}).json()
    whole = compared(gates=[{"metric": "accuracy", "value": 0.99}])
    run(bench, falling, 3)
    assert sweep(bench) == 0
    run(bench, falling, 1)
    shown = client.get(f"/v1/comparisons/{whole['id']}").json()
    assert (sweep(bench), sweep(bench)) == (1, 0)
    assert client.get(f"/v1/comparisons/{whole['id']}").json() == shown
    assert shown["conclusion"] == "gate_failed"
    [told] = client.get(f"/v1/webhooks/{hook['id']}/deliveries").json()["data"]
    assert told["type"] == "comparison.succeeded"
    with bench.database.reading() as session:
        data = session.scalars(select(Delivery.data)).one()
    assert data == {
        **{"comparison": whole["id"], "project": bench.project},
        **{"status": "succeeded", "conclusion": "gate_failed"},
    }


def test_two_last_parts_end_at_once_and_one_sweeper_tells(compared: Compared, bench: Any) -> None:
    """Neither transaction sees that the other's job has ended, and two sweepers look while one concludes."""
    compared(recipes=RECIPES[:1])
    held = [bench.claim(), bench.claim()]
    ready, threads = Barrier(2), ThreadPoolExecutor(2)

    def end(job: Any) -> None:
        with bench.database.transaction() as session:
            if bench.database.engine.dialect.name == "sqlite":  # one writer at a time: they cannot overlap
                jobs.complete(session, job.id, job.attempt, 0, passed=True)
                return
            jobs.complete(session, job.id, job.attempt, 0, passed=True)
            ready.wait(30)

    for job in held:
        bench.store_round(job, 0, 0.9, 0.0)
    with threads:
        list(threads.map(end, held))
    with ThreadPoolExecutor(4) as sweepers:
        assert sum(sweepers.map(lambda _: sweep(bench), range(8))) == 1


def test_a_retry_while_a_sweeper_concludes_undoes_it(client: TestClient, compared: Compared, bench: Any) -> None:
    whole = compared(seeds=[3], recipes=RECIPES[:1])
    path = f"/v1/comparisons/{whole['id']}"
    client.post(f"{path}/cancel")
    with ThreadPoolExecutor(1) as thread:
        with bench.database.transaction() as session:
            assert conclude_comparisons(session) == 1
            retry = thread.submit(client.post, f"{path}/retry")
        assert retry.result(60).status_code == 200
    with bench.database.reading() as session:
        row = session.scalars(select(Comparison)).one()
        assert (row.conclusion, row.concluded_at) == (None, None)
    client.post(f"{path}/cancel")
    assert sweep(bench) == 1


def test_deleted_with_its_jobs_or_without(
    client: TestClient, compared: Compared, refused: Refused, subtests: pytest.Subtests
) -> None:
    for keep_jobs in (True, False):
        with subtests.test(keep_jobs=keep_jobs):
            whole = compared(seeds=[3])
            path = f"/v1/comparisons/{whole['id']}"
            refused(client.delete(path), 409, "invalid_transition")
            client.post(f"{path}/cancel")
            part = f"/v1/jobs/{whole['parts'][0]['job']}"
            assert client.get(part).json()["comparison"] == whole["id"]
            assert client.delete(path, params={"keep_jobs": keep_jobs}).status_code == 204
            refused(client.get(path), 404, "not_found")
            kept = client.get(part)
            assert kept.status_code == (200 if keep_jobs else 404)
            assert not keep_jobs or kept.json()["comparison"] is None


def test_a_part_that_is_deleted_is_shown_as_missing(client: TestClient, compared: Compared) -> None:
    whole = compared(seeds=[3])
    path, job = f"/v1/comparisons/{whole['id']}", whole["parts"][0]["job"]
    client.post(f"/v1/jobs/{job}/cancel")
    etag = client.get(path).headers["etag"]
    assert client.delete(f"/v1/jobs/{job}").status_code == 204
    shown = client.get(path, headers={"If-None-Match": etag})
    assert shown.status_code == 200
    part = shown.json()["parts"][0]
    assert (part["job"], part["status"]) == (None, None)
    assert client.get(f"{path}/table").json()["data"] == []


def test_polled_and_waited_for(client: TestClient, compared: Compared, bench: Any) -> None:
    whole = compared()
    path = f"/v1/comparisons/{whole['id']}"
    first = client.get(path)
    assert first.headers["retry-after"] == "2"
    same = {"If-None-Match": first.headers["etag"]}
    assert client.get(path, headers=same).status_code == 304
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(client.get, path, headers={**same, "Prefer": "wait=60"})
        bench.store_round(bench.claim(), 0, 0.9, 0.0)
        answer = waiting.result(60)
    assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait=60")
    assert answer.json()["status"] == "running"


def test_its_picture_and_its_summary(client: TestClient, compared: Compared, bench: Any) -> None:
    whole = compared(gates=[{"metric": "accuracy", "value": 0.5}])
    path = f"/v1/comparisons/{whole['id']}"
    for kind, starts in (("svg", b"<?xml"), ("png", b"\x89PNG")):
        assert client.get(f"{path}/plot.{kind}").content.startswith(starts)
    assert "No pruned round is stored yet." in client.get(f"{path}/summary.md").text
    run(bench, falling)
    drawn = client.get(f"{path}/plot.svg", params={"theme": "dark"})
    assert drawn.content == client.get(f"{path}/plot.svg", params={"theme": "dark"}).content
    unchanged = client.get(
        f"{path}/plot.svg", params={"theme": "dark"}, headers={"If-None-Match": drawn.headers["etag"]}
    )
    assert unchanged.status_code == 304
    told = client.get(f"{path}/summary.md", params={"plot": "https://example.com/p.png"})
    assert told.headers["content-type"] == "text/markdown; charset=utf-8"
    lines = told.text.splitlines()
    assert lines[0] == "### Comparison passed"
    assert (
        "**Take round 2 of reset, 40.0% of all parameters removed: accuracy 0.9050 ± 0.0071, held in 2 of 2"
        in told.text
    )
    assert "![accuracy against what remains, for all recipes](https://example.com/p.png)" in lines
    [row] = [line for line in lines if "**recommended**" in line]
    assert row.startswith("| reset | 2 | 40.0% | 0.9050 ± 0.0071 |  | 2 of 2 | 50 | 3.6 | **recommended**, front |")
    assert client.get(f"{path}/summary.md", params={"plot": "x) <script>"}).status_code == 422
