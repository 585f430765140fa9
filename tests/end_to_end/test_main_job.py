"""The whole service on one machine, driven as a user drives it: through the client alone.

Digits that come with scikit-learn, networks as plain modules of this file, the two algorithms in their three forms.
"""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from espalier import ApiError, Client, Job, NotReady, Round, read_masks
from fleet import children_of, is_alive
from numpy.typing import NDArray
from pydantic import SecretStr
from safetensors.torch import load_file, save
from sklearn.datasets import load_digits
from torch import Tensor, nn

from embedded.serve import Service, ServiceError
from store.settings import Settings

API_KEY = "esp_a-key-for-the-end-to-end-tests"
SCALE = 1 / 16
Splits = dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]


def small_settings(data_dir: Path) -> Settings:
    """Short leases, so that the tests need not wait for what is lost."""
    return Settings(
        port=0,
        data_dir=data_dir,
        api_key=SecretStr(API_KEY),
        lease_seconds=3,
        renew_seconds=0.5,
        sweep_seconds=0.3,
    )


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
    "stop": {"rounds": 3, "accuracy_floor": {"factor": 0.5}},
    "training": {"epochs": 3, "preprocessing": {"scale": SCALE}},
}
STUDIES = {
    "reset": Study(LeNet, "lenet_300_100", {"strategy": "lottery_ticket_reset", **LOTTERY_TICKET}, 0.85),
    "continue": Study(LeNet, "lenet_300_100", {"strategy": "lottery_ticket_continue", **LOTTERY_TICKET}, 0.85),
    "dropnet": Study(Conv2, "conv2", DROPNET, 0.3),
}


@dataclass(frozen=True)
class Result:
    study: Study
    job: Job
    rounds: list[Round]
    files: list[dict[str, Path]]
    """By kind, for each round in its order."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(small_settings(tmp_path_factory.mktemp("service"))) as service:
        yield service


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Client]:
    with Client(service.url, API_KEY) as client:
        yield client


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
    job = client.wait(posted[request.param], timeout_seconds=60, interval_seconds=0.1)
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
    assert job["progress"] == {"round": result.rounds[-1]["number"] or "final", "rounds": 3, "fraction": 1.0} | {
        "eta_seconds": None
    }
    assert [(attempt["number"], attempt["reason"]) for attempt in job["attempts"]] == [(1, "completed")]
    assert job["determinism"]["device"] == "cpu"
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]


def test_rounds_come_in_order_with_every_promised_field(result: Result) -> None:
    has_final = result.study.recipe["strategy"] == "lottery_ticket_continue"
    assert [round_["number"] for round_ in result.rounds] == [0, 1, 2, 3] + [None] * has_final
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
        assert all(layer.keys() == {"name", "num_weights", "num_nonzero"} for layer in round_["layers"])
        assert {artifact["kind"] for artifact in round_["artifacts"]} == {"model", "masks", "ticket", "sparse"}
    dense = result.rounds[0]
    assert dense["sparsity"] == {"target": 0.0, "actual": 0.0}
    assert all(value == 0 for split in dense["delta"].values() for value in split.values())
    last = result.rounds[3]
    expected = last["metrics"]["test"]["accuracy"] - dense["metrics"]["test"]["accuracy"]
    assert last["delta"]["test"]["accuracy"] == pytest.approx(expected, abs=1e-12)
    assert any(round_["pareto"] for round_ in result.rounds)


def test_the_selected_round_is_the_sparsest_one_that_passes(result: Result) -> None:
    [selected] = [round_ for round_ in result.rounds if round_["selected"]]
    name = "final" if selected["number"] is None else selected["number"]
    assert result.job["selected_round"] == name
    assert all(artifact["round"] == name for artifact in selected["artifacts"])
    passing = [r for r in result.rounds if r["metrics"]["validation"]["accuracy"] >= result.study.gate]
    assert selected["sparsity"]["actual"] == max(r["sparsity"]["actual"] for r in passing)
    assert selected["sparsity"]["actual"] > 0.4


def test_sparsity_is_exactly_the_recipes(result: Result) -> None:
    """Weights: floor(f n + 0.5) of each layer in a round, at half the rate in the output layer. Units: floor(f n) of
    all that are left, the output's apart."""
    weights, units = {"fc1": 64 * 300, "fc2": 300 * 100, "fc3": 100 * 10}, 64 + 64 + 256 + 256
    for number, round_ in enumerate(result.rounds[:4]):
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
        for split, (images, labels) in digits().items():
            assert round_["metrics"][split]["accuracy"] == accuracy(network, images, labels), split
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


# What is refused, and when


def test_a_pickle_is_refused_before_it_is_stored(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "lenet.pt"
    torch.save(fresh(LeNet).state_dict(), path)
    with pytest.raises(ApiError, match="run code when loaded.*safetensors.torch.save_file") as caught:
        client.upload_model(path, architecture="lenet_300_100")
    assert (caught.value.status, caught.value.code) == (422, "unsupported_format")


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Conv2, [r"unexpected: conv1\.bias, conv1\.weight, conv2\.bias, conv2\.weight;"]),
        (nn.Identity, [r"missing: fc1\.bias, fc1\.weight, fc2\.bias"]),
        (LeNet, [r"fc1\.weight \(300, 64\) instead of \(300, 784\)", "input_shape"]),
    ],
)
def test_weights_that_do_not_fit_are_invalid_and_named(
    client: Client, network: type[nn.Module], words: list[str]
) -> None:
    shape = (1, 28, 28) if network is LeNet else (1, 8, 8)
    weights = save(network().state_dict())
    for word in words:
        with pytest.raises(NotReady, match=word) as caught:
            client.upload_model(weights, architecture="lenet_300_100", input_shape=shape, num_classes=10)
        assert caught.value.document["error"]["code"] == "invalid_content"


def test_weights_that_are_no_numbers_are_invalid_and_named(client: Client) -> None:
    network = fresh(LeNet)
    with torch.no_grad():
        network.get_parameter("fc2.weight")[3, 4] = float("nan")
    with pytest.raises(NotReady, match=r"fc2\.weight.*NaN"):
        client.upload_model(save(network.state_dict()), architecture="lenet_300_100", input_shape=(1, 8, 8))


def test_examples_that_are_no_numbers_are_invalid_and_named(client: Client) -> None:
    images = np.zeros((20, 1, 8, 8), dtype=np.float32)
    images[7, 0, 3, 3] = np.nan
    with pytest.raises(NotReady, match=r"train\.inputs.*example 7 holds NaN") as caught:
        client.upload_dataset({"train": (images, np.arange(20) % 10)})
    assert caught.value.document["status"] == "invalid"


def test_an_array_of_objects_runs_no_code(client: Client, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    file = BytesIO()
    np.savez(file, **{"train.inputs": np.array([Trap()] * 20, dtype=object), "train.targets": np.arange(20)})
    with pytest.raises(NotReady, match=r"train\.inputs"):
        client.upload_dataset(file.getvalue())
    assert not (tmp_path / "ran").exists()


def test_a_label_that_the_model_has_no_output_for_is_refused_at_once(
    client: Client, references: dict[str, str]
) -> None:
    images = np.zeros((100, 1, 8, 8), dtype=np.uint8)
    dataset = client.upload_dataset({"train": (images, np.arange(100) % 11)}, name="eleven classes")
    with pytest.raises(ApiError, match="labels go up to 10, but the model has 10 outputs") as caught:
        client.create_job(
            model=references["lenet_300_100"], dataset=dataset, recipe={"strategy": "lottery_ticket_reset"}
        )
    assert (caught.value.status, caught.value.code) == (422, "dataset_mismatch")
    assert caught.value.problem["param"] == "/dataset"


def test_a_negative_label_is_invalid_and_named(client: Client) -> None:
    with pytest.raises(NotReady, match=r"train\.targets.*labels from -1 to 8"):
        client.upload_dataset({"train": (np.zeros((20, 1, 8, 8), dtype=np.uint8), np.arange(20) % 10 - 1)})


# What is killed


def part_of(pid: int, words: str) -> int | None:
    """The process that `pid` started with these words in its command."""
    for child in children_of(pid):
        if words in Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ") and is_alive(child):
            return child
    return None


def eventually(look: Callable[[], Any], seconds: float = 20) -> Any:
    """The first true thing that `look` gives."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)
    return seen


def test_a_killed_worker_is_started_again_and_the_result_is_the_same(
    client: Client, references: dict[str, str], result: Result
) -> None:
    if result.study.network is Conv2:
        pytest.skip("one network is enough")
    job = client.create_job(
        model=references["lenet_300_100"], dataset=references["dataset"], recipe=result.study.recipe
    )
    eventually(lambda: len(client.rounds(job["id"])) >= 2)
    worker = part_of(os.getpid(), "worker.tasks")
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    ended = client.wait(job["id"], timeout_seconds=40, interval_seconds=0.1)
    first, second = ended["attempts"]
    assert "lease ran out" in first["reason"]
    assert second["reason"] == "completed"
    assert first["worker"] != second["worker"]
    digests = [
        [(a["kind"], a["sha256"]) for a in round_["artifacts"] if a["kind"] != "sparse"] for round_ in result.rounds
    ]
    again = [[(a["kind"], a["sha256"]) for a in round_["artifacts"]] for round_ in client.rounds(job["id"])]
    assert again == digests, "to the bit what an undisturbed job gives"
