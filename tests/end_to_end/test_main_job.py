"""The main job, as a user does it, through the client alone: digits that come with scikit-learn, networks as plain
modules of this file, each algorithm; and what comes back is held against the masks, the first weights and the reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from espalier import Client, Job, Round, read_masks
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from sklearn.datasets import load_digits
from torch import Tensor, nn

SCALE = 1 / 16
Splits = dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(64, 300), nn.Linear(300, 100), nn.Linear(100, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.fc1(images.flatten(1)))
        logits: Tensor = self.fc3(torch.relu(self.fc2(hidden)))
        return logits


class Conv2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
        self.fc1, self.fc2, self.fc3 = nn.Linear(64 * 16, 256), nn.Linear(256, 256), nn.Linear(256, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.conv2(torch.relu(self.conv1(images))))
        hidden = torch.relu(self.fc1(nn.functional.max_pool2d(hidden, 2).flatten(1)))
        logits: Tensor = self.fc3(torch.relu(self.fc2(hidden)))
        return logits


def fresh(network: type[nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return network()


def digits() -> Splits:
    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8)[:, None], bunch.target.astype(np.int64)
    bounds = {"train": slice(1000), "validation": slice(1000, 1400), "test": slice(1400, None)}
    return {name: (images[part], labels[part]) for name, part in bounds.items()}


@dataclass(frozen=True)
class Study:
    network: type[nn.Module]
    architecture: str
    recipe: dict[str, Any]
    gate: float


LOTTERY_TICKET = {
    "stop": {"rounds": 3},
    "training": {"steps": 200, "evaluate_every_steps": 50, "preprocessing": {"scale": SCALE}},
}
DROPNET = {
    "strategy": "dropnet",
    "schedule": {"fraction": 0.3},
    "stop": {"rounds": 6, "accuracy_floor": {"factor": 0.8}},
    "training": {"epochs": 2, "optimizer": {"name": "adam", "lr": 0.001}, "preprocessing": {"scale": SCALE}},
}
"""The floor ends it, before round 6."""
STUDIES = {
    "reset": Study(LeNet, "lenet_300_100", {"strategy": "lottery_ticket_reset", **LOTTERY_TICKET}, 0.85),
    "continue": Study(LeNet, "lenet_300_100", {"strategy": "lottery_ticket_continue", **LOTTERY_TICKET}, 0.85),
    "dropnet": Study(Conv2, "conv2", DROPNET, 0.7),
}


@dataclass(frozen=True)
class Result:
    study: Study
    job: Job
    rounds: list[Round]
    files: list[dict[str, Path]]
    """By kind, for each round in its order."""


@pytest.fixture(scope="module")
def references(client: Client) -> dict[str, str]:
    """Ids of the dataset and of each network's first weights, by architecture."""
    ids = {"dataset": client.upload_dataset(digits(), name="digits")["id"]}
    for study in (STUDIES["reset"], STUDIES["dropnet"]):
        weights = save(fresh(study.network).state_dict())
        shape = {"architecture": study.architecture, "input_shape": (1, 8, 8), "num_classes": 10}
        ids[study.architecture] = client.upload_model(weights, **shape)["id"]
    return ids


@pytest.fixture(scope="module")
def posted(client: Client, references: dict[str, str]) -> dict[str, str]:
    """All three jobs at once, which wait for the one worker; their ids."""
    return {
        name: client.create_job(
            model=references[study.architecture],
            dataset=references["dataset"],
            recipe=study.recipe,
            gates=[{"metric": "accuracy", "op": ">=", "value": study.gate}],
            artifacts=["model", "masks", "ticket", "sparse"],
        )["id"]
        for name, study in STUDIES.items()
    }


@pytest.fixture(scope="module", params=STUDIES)
def result(
    client: Client, posted: dict[str, str], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Result:
    job = client.wait(posted[request.param], timeout_seconds=90, interval_seconds=0.1)
    rounds = client.rounds(job["id"])
    folder = tmp_path_factory.mktemp(request.param)
    files = [
        {a["kind"]: client.download(a, folder / str(position) / a["filename"]) for a in round_["artifacts"]}
        for position, round_ in enumerate(rounds)
    ]
    return Result(STUDIES[request.param], job, rounds, files)


def test_every_job_succeeds_and_passes(result: Result) -> None:
    job = result.job
    assert (job["status"], job["conclusion"], job["done"], job["error"]) == ("succeeded", "passed", True, None)
    last, planned = result.rounds[-1]["number"], result.study.recipe["stop"]["rounds"]
    expected = {"round": "final" if last is None else last, "rounds": planned, "fraction": 1.0, "eta_seconds": None}
    assert job["progress"] == expected
    assert [(attempt["number"], attempt["reason"]) for attempt in job["attempts"]] == [(1, "completed")]
    assert job["determinism"]["device"] == "cpu"
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]


def test_another_such_job_is_estimated(http: httpx2.Client, references: dict[str, str], result: Result) -> None:
    """From what this one has measured: wrong by less than a factor of two."""
    model, recipe = references[result.study.architecture], result.study.recipe
    body = {"model": model, "dataset": references["dataset"], "recipe": recipe}
    estimate = http.post("/v1/jobs?validate_only=true", json=body).json()["estimate"]
    started_at, finished_at = (datetime.fromisoformat(result.job[at] or "") for at in ("started_at", "finished_at"))
    assert estimate["basis"] == "measured"
    assert 0.5 < estimate["seconds"] / (finished_at - started_at).total_seconds() < 2
    stored = sum(file.stat().st_size for files in result.files for file in files.values())
    assert estimate["artifact_bytes"] > 0.5 * stored


def test_rounds_come_in_order_with_every_promised_field(result: Result) -> None:
    numbers = [round_["number"] for round_ in result.rounds]
    if result.study.network is Conv2:
        assert numbers == list(range(len(numbers)))
    else:
        final = [None] * (result.study.recipe["strategy"] == "lottery_ticket_continue")
        assert numbers == [0, 1, 2, 3, *final]
    units = {"num_units", "num_units_kept"} if result.study.network is Conv2 else set()
    promised = {
        "number", "sparsity", "num_parameters", "num_nonzero", "num_parameters_total", "num_nonzero_total", "layers",
        "metrics", "early_stopping", "delta", "size_bytes", "macs", "latency_ms", "seconds", "pareto", "artifacts",
    }  # fmt: skip
    for round_ in result.rounds:
        assert promised | units <= round_.keys()
        assert round_["sparsity"].keys() == {"target", "actual"}
        assert round_["metrics"].keys() == round_["delta"].keys() == {"train", "validation", "test"}
        for split in round_["metrics"].values():
            assert split.keys() == {"accuracy", "loss"}
        assert round_["early_stopping"].keys() == {"step", "metrics"}
        assert 0 < round_["early_stopping"]["step"] <= round_["steps"]
        assert round_["size_bytes"].keys() == {"dense", "sparse"}
        assert 0 < round_["macs"]["effective"] <= round_["macs"]["dense"]
        assert 0 < round_["latency_ms"]["p50"] <= round_["latency_ms"]["p95"]
        assert round_["latency_ms"]["conditions"]["batch"] == 1
        assert round_["seconds"].keys() == {"prune", "train", "evaluate"}
        assert all(layer.keys() == {"name", "num_weights", "num_nonzero", "density"} for layer in round_["layers"])
        assert {artifact["kind"] for artifact in round_["artifacts"]} == {"model", "masks", "ticket", "sparse"}
    dense = result.rounds[0]
    assert dense["sparsity"] == {"target": 0.0, "actual": 0.0}
    assert all(value == 0 for split in dense["delta"].values() for value in split.values())
    last = result.rounds[-1]
    expected = last["metrics"]["test"]["accuracy"] - dense["metrics"]["test"]["accuracy"]
    assert last["delta"]["test"]["accuracy"] == pytest.approx(expected, abs=1e-12)
    assert any(round_["pareto"] for round_ in result.rounds)


def test_the_selected_round_is_the_sparsest_one_that_passes(result: Result) -> None:
    [selected] = [round_ for round_ in result.rounds if round_["selected"]]
    name = "final" if selected["number"] is None else selected["number"]
    assert result.job["selected_round"] == name
    assert all(artifact["round"] == name for artifact in selected["artifacts"])
    accuracies = [r["metrics"]["validation"]["accuracy"] for r in result.rounds]
    floor = result.study.recipe["stop"].get("accuracy_floor", {"factor": 0})["factor"] * accuracies[0]
    passing = [
        r
        for r, accuracy in zip(result.rounds, accuracies, strict=True)
        if accuracy >= result.study.gate and accuracy > floor
    ]
    assert selected["sparsity"]["actual"] == max(r["sparsity"]["actual"] for r in passing)
    assert selected["sparsity"]["actual"] > 0.45


def test_the_floor_ends_dropnet(result: Result) -> None:
    if result.study.network is not Conv2:
        assert "accuracy_floor" not in result.study.recipe["stop"]
        return
    *above, last = [round_["metrics"]["validation"]["accuracy"] for round_ in result.rounds]
    floor = 0.8 * above[0]
    assert all(accuracy > floor for accuracy in above)
    assert last <= floor
    assert len(result.rounds) < 7, "the floor came before the last round"
    assert result.job["selected_round"] == result.rounds[-2]["number"]


def test_sparsity_is_exactly_the_recipes(result: Result) -> None:
    """Weights: floor(f n + 0.5) of each layer in a round, at half the rate in the output layer. Units: floor(f n) of
    all that are left, the output's apart."""
    weights, units = {"fc1": 64 * 300, "fc2": 300 * 100, "fc3": 100 * 10}, 64 + 64 + 256 + 256
    for number, round_ in enumerate(r for r in result.rounds if r["number"] is not None):
        if result.study.network is Conv2:
            assert (round_["num_units"], round_["num_units_kept"]) == (640, units)
            assert round_["sparsity"]["actual"] == pytest.approx(1 - units / 640, abs=1e-12)
            assert round_["sparsity"]["target"] == pytest.approx(1 - 0.7**number, abs=1e-12)
            units -= int(0.3 * units)
        else:
            assert {layer["name"]: layer["num_nonzero"] for layer in round_["layers"]} == weights
            assert round_["num_nonzero"] == sum(weights.values())
            assert round_["sparsity"]["actual"] == pytest.approx(1 - sum(weights.values()) / 50_200, abs=1e-12)
            rates = {"fc1": 0.2, "fc2": 0.2, "fc3": 0.1}
            weights = {name: left - int(rates[name] * left + 0.5) for name, left in weights.items()}


def test_downloaded_weights_are_what_was_reported(result: Result) -> None:
    """They load strictly into the user's own module, and it measures there what the service says of them."""
    for round_, files in zip(result.rounds, result.files, strict=True):
        network = result.study.network()
        network.load_state_dict(load_file(files["model"]), strict=True)
        for split in ("validation", "test"):
            assert round_["metrics"][split]["accuracy"] == accuracy(network, *digits()[split]), split
        assert round_["size_bytes"]["dense"] == files["model"].stat().st_size
        assert round_["size_bytes"]["sparse"] == files["sparse"].stat().st_size
        assert round_["num_nonzero_total"] == sum(int(p.count_nonzero()) for p in network.parameters())


def test_what_the_masks_remove_is_zero_and_stays_removed(result: Result) -> None:
    before: dict[str, NDArray[np.bool_]] = {}
    for round_, files in zip(result.rounds, result.files, strict=True):
        masks, trained = read_masks(files["masks"]), load_file(files["model"])
        for name, mask in masks.items():
            assert mask.shape == tuple(trained[name].shape)
            assert not trained[name].numpy()[~mask].any()
            assert not (mask & ~before.get(name, mask)).any(), "what is pruned stays pruned"
        kept = {layer["name"]: int(masks[f"{layer['name']}.weight"].sum()) for layer in round_["layers"]}
        assert sum(kept.values()) >= round_["num_nonzero"] > 0
        if result.study.network is LeNet:
            assert {layer["name"]: layer["num_nonzero"] for layer in round_["layers"]} == kept
        else:
            assert round_["num_units_kept"] == sum(whole_units(masks[f"{name}.weight"]) for name in UNIT_LAYERS)
        before = masks


def test_a_ticket_is_the_first_weights_under_the_mask(result: Result) -> None:
    first = fresh(result.study.network).state_dict()
    for files in result.files:
        masks, ticket = read_masks(files["masks"]), load_file(files["ticket"])
        assert ticket.keys() == first.keys()
        for name, weights in first.items():
            mask = torch.from_numpy(masks[name]) if name in masks else torch.ones_like(weights, dtype=torch.bool)
            assert torch.equal(ticket[name], torch.where(mask, weights, torch.zeros(()))), name


def test_continued_training_ends_with_the_last_masks_on_the_first_weights(result: Result) -> None:
    if result.study.recipe["strategy"] != "lottery_ticket_continue":
        assert all(round_["number"] is not None for round_ in result.rounds)
        return
    last, final = result.rounds[-2:]
    assert (final["number"], final["steps"], final["sparsity"]) == (None, 200, last["sparsity"])
    assert result.files[-1]["masks"].read_bytes() == result.files[-2]["masks"].read_bytes()
    assert result.files[-1]["model"].read_bytes() != result.files[-2]["model"].read_bytes()
    assert result.job["selected_round"] == "final"


UNIT_LAYERS = ("conv1", "conv2", "fc1", "fc2")


def whole_units(mask: NDArray[np.bool_]) -> int:
    """Of a layer's output; a unit that is pruned has lost every weight."""
    return int(mask.reshape(len(mask), -1).any(axis=1).sum())


@torch.no_grad()
def accuracy(network: nn.Module, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> float:
    predicted = network.eval()(torch.from_numpy(images) * SCALE).argmax(dim=1)
    return int((predicted == torch.from_numpy(labels)).sum()) / len(labels)
