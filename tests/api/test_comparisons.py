"""Several recipes and seeds, made, ordered and read as one."""

from __future__ import annotations

import csv
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from starlette.testclient import TestClient

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
