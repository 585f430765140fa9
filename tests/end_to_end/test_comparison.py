"""A comparison as a user makes it: real training, a killed worker on the way, table, recommendation, picture; and one
that is canceled as a whole."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from espalier import Client, ComparisonFailed
from safetensors.numpy import load_file
from sklearn.datasets import load_digits

from embedded.serve import Service

pytestmark = pytest.mark.timeout(600)

RECIPES: dict[str, Any] = {
    "reset": {"strategy": "lottery_ticket_reset", "stop": {"rounds": 2}},
    "continue": {"strategy": "lottery_ticket_continue", "stop": {"rounds": 2}},
}


@pytest.fixture(scope="module")
def posted(client: Client, http: httpx2.Client) -> dict[str, Any]:
    """Two recipes, two seeds, on digits."""
    bunch = load_digits()
    images, labels = bunch.images.astype(np.float32)[:, None] / 16, bunch.target.astype(np.int64)
    splits = {"train": (images[:1000], labels[:1000]), "validation": (images[1000:1400], labels[1000:1400])}
    dataset = client.upload_dataset(splits, name="digits")
    spec = {"format": "architecture", "architecture": "lenet_300_100", "input_shape": "1,8,8"}
    made = http.post("/v1/models", params=spec).raise_for_status().json()
    while client.model(made["id"])["status"] == "validating":
        time.sleep(0.1)
    goal = {"metric": "accuracy", "keep_ratio": 0.8}
    return client.compare(
        model=made["id"], dataset=dataset, recipes=RECIPES, seeds=[1, 2], budget={"steps_per_round": 150}, goal=goal
    )


def test_killed_on_the_way_it_comes_to_a_recommendation(
    client: Client, service: Service, posted: dict[str, Any], tmp_path: Path
) -> None:
    for seen in client.follow_comparison(posted["id"], interval_seconds=0.2):
        if seen["status"] == "running":
            os.kill(service._processes["worker"].pid, signal.SIGKILL)
            break
    done = client.wait_comparison(posted["id"])
    assert (done["conclusion"], done["progress"]["fraction"]) == ("passed", 1.0)

    table = client.comparison_table(posted["id"])
    rows = {(row["recipe"], row["round"]): row for row in table["data"]}
    assert {row["num_seeds"] for row in rows.values()} == {2}
    # In one seed all train the same dense network, of the same weights in the same order.
    assert [rows["reset", 0][name] for name in ("mean", "std", "low")] == [
        rows["continue", 0][name] for name in ("mean", "std", "low")
    ]
    each = [
        round_["metrics"]["validation"]["accuracy"]
        for part in done["parts"]
        if part["recipe"] == "reset"
        for round_ in client.rounds(part["job"])[-1:]
    ]
    assert rows["reset", 2]["mean"] == pytest.approx(sum(each) / 2)
    assert rows["reset", 2]["std"] == pytest.approx(abs(each[0] - each[1]) / 2**0.5)

    best = client.recommendation(posted["id"])
    assert (best["met"], best["held"], best["final"]) == (True, 2, True)
    [model] = [artifact for artifact in best["artifacts"] if artifact["kind"] == "model"]
    path = client.download(model, tmp_path / "model.safetensors")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == model["sha256"]
    weights = [array for name, array in load_file(path).items() if name.endswith("weight")]
    left = sum(np.count_nonzero(array) for array in weights) / sum(array.size for array in weights)
    assert 1 - left == pytest.approx(best["row"]["sparsity"], abs=0.01)

    assert client.download_comparison_plot(posted["id"], tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
    assert best["summary"] in client.comparison_summary(posted["id"])


def test_canceled_as_a_whole_it_says_so(client: Client, posted: dict[str, Any]) -> None:
    recipes = {name: {**recipe, "stop": {"rounds": 30}} for name, recipe in RECIPES.items()}
    again = client.compare(model=posted["model"], dataset=posted["dataset"], recipes=recipes)
    assert client.cancel_comparison(again["id"])["status"] in ("canceling", "canceled")
    with pytest.raises(ComparisonFailed, match="is canceled: reset, seed 0; continue, seed 0") as caught:
        client.wait_comparison(again["id"])
    assert caught.value.comparison["conclusion"] == "canceled"
    client.delete_comparison(again["id"])
    assert again["id"] not in [one["id"] for one in client.comparisons(done=True)]
