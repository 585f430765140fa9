"""Every named strategy, through the service as a user runs it: what the catalogue says of it is what is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from espalier import Client, Job, Round, read_masks
from numpy.typing import NDArray
from safetensors.numpy import load_file
from safetensors.torch import save
from sklearn.datasets import load_digits

from pruning.strategies import STRATEGIES

NUM_ROUNDS, NUM_STEPS, REWIND_STEP = 2, 12, 4
BATCH = {"batch_size": 50, "preprocessing": {"scale": 1 / 16}}
WEIGHTS = {"fc1": 64 * 300, "fc2": 300 * 100, "fc3": 100 * 10}
UNITS = {"fc1": 300, "fc2": 100}


def tiny(name: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """The strategy, with a budget that takes a moment; nothing else of it changes."""
    training: dict[str, Any] = {**BATCH, "steps": NUM_STEPS, "evaluate_every_steps": NUM_STEPS}
    recipe: dict[str, Any] = {"strategy": name, "seed": 7, "training": training}
    if defaults["granularity"] == "unit":
        recipe["stop"] = {"rounds": NUM_ROUNDS, "accuracy_floor": {"factor": 0.01}}
    elif defaults["schedule"]["kind"] == "fraction":
        recipe["stop"] = {"rounds": NUM_ROUNDS}
    elif defaults["schedule"]["kind"] == "polynomial":
        recipe["schedule"] = {"rounds": NUM_ROUNDS}
    if defaults["between_rounds"]["weights"] == "rewind":
        recipe["between_rounds"] = {"step": REWIND_STEP}
    return recipe


@pytest.fixture(scope="module")
def catalogue(http: httpx2.Client) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in http.get("/v1/strategies").json()["data"]}


@pytest.fixture(scope="module")
def first() -> dict[str, torch.Tensor]:
    """The first weights."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        layers = {"fc1": (64, 300), "fc2": (300, 100), "fc3": (100, 10)}
        return dict(torch.nn.ModuleDict({name: torch.nn.Linear(*shape) for name, shape in layers.items()}).state_dict())


@pytest.fixture(scope="module")
def references(client: Client, first: dict[str, torch.Tensor]) -> dict[str, str]:
    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8)[:, None], bunch.target
    bounds = {"train": slice(1000), "validation": slice(1000, 1400), "test": slice(1400, None)}
    splits = {name: (images[part], labels[part]) for name, part in bounds.items()}
    lenet = client.upload_model(save(first), architecture="lenet_300_100", input_shape=(1, 8, 8), num_classes=10)
    return {"model": lenet["id"], "dataset": client.upload_dataset(splits, name="digits of the strategies")["id"]}


@pytest.fixture(scope="module")
def posted(client: Client, references: dict[str, str], catalogue: dict[str, dict[str, Any]]) -> dict[str, str]:
    """All at once, which wait for the one worker; their ids."""
    kinds = ["model", "masks", "ticket"]
    return {
        name: client.create_job(**references, recipe=tiny(name, row["defaults"]), artifacts=kinds)["id"]
        for name, row in catalogue.items()
    }


@dataclass(frozen=True)
class Entry:
    round_: Round
    masks: dict[str, NDArray[np.bool_]]
    trained: dict[str, NDArray[np.float32]]
    ticket: dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Result:
    name: str
    defaults: dict[str, Any]
    job: Job
    planned: list[float]
    """Sparsity after each round, as `validate_only` says it before anything has run."""
    entries: list[Entry]


@pytest.fixture(scope="module", params=STRATEGIES)
def result(
    client: Client,
    http: httpx2.Client,
    references: dict[str, str],
    posted: dict[str, str],
    catalogue: dict[str, dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Result:
    name, defaults = request.param, catalogue[request.param]["defaults"]
    asked = {**references, "recipe": tiny(name, defaults)}
    plan = http.post("/v1/jobs", params={"validate_only": True}, json=asked).json()
    job = client.wait(posted[name], timeout_seconds=90, interval_seconds=0.1)
    entries = [entry(client, round_, tmp_path_factory.mktemp(name)) for round_ in client.rounds(job["id"])]
    return Result(name, defaults, job, [round_["sparsity"] for round_ in plan["rounds"]], entries)


def entry(client: Client, round_: Round, folder: Path) -> Entry:
    files = {a["kind"]: client.download(a, folder / a["filename"]) for a in round_["artifacts"]}
    return Entry(round_, read_masks(files["masks"]), load_file(files["model"]), load_file(files["ticket"]))


def numbered(result: Result) -> list[Entry]:
    return [entry for entry in result.entries if entry.round_["number"] is not None]


def test_it_is_run_as_the_catalogue_says(result: Result) -> None:
    job = result.job
    assert (job["status"], job["conclusion"], job["error"]) == ("succeeded", "passed", None)

    def holds(recipe: Any, default: Any) -> bool:
        if isinstance(default, dict):
            return all(holds(recipe[key], value) for key, value in default.items())
        return bool(recipe == default)

    recipe = job["recipe"]
    for section in ("criterion", "granularity", "scope", "finally", "controls"):
        assert holds(recipe[section], result.defaults.get(section, recipe[section])), section
    assert recipe["schedule"]["kind"] == result.defaults["schedule"]["kind"]
    assert holds(
        recipe["between_rounds"], {**result.defaults["between_rounds"], "step": recipe["between_rounds"]["step"]}
    )
    assert recipe["seed"] == 7


def test_its_rounds_are_as_sparse_as_planned(result: Result) -> None:
    rounds = [entry.round_ for entry in numbered(result)]
    one_shot = result.defaults["schedule"]["kind"] == "one_shot"
    assert [round_["number"] for round_ in rounds] == list(range((1 if one_shot else NUM_ROUNDS) + 1))
    assert [round_["sparsity"]["actual"] for round_ in rounds] == pytest.approx(result.planned, abs=1e-12)
    assert rounds[-1]["sparsity"]["actual"] >= 0.35
    for round_ in rounds:
        assert round_["sparsity"]["actual"] == pytest.approx(round_["sparsity"]["target"], abs=0.01)
        assert round_["seed"] == 7
        assert {layer["name"] for layer in round_["layers"]} == set(WEIGHTS)


def test_masks_hold_and_only_shrink(result: Result) -> None:
    before = {name: np.ones_like(mask) for name, mask in result.entries[0].masks.items()}
    for entry in result.entries:
        assert entry.masks.keys() == before.keys()
        for name, mask in entry.masks.items():
            assert not (mask & ~before[name]).any()
            assert not entry.trained[name][~mask].any()
            assert not entry.ticket[name][~mask].any()
            assert mask.any()
        densities = {layer["name"]: layer["density"] for layer in entry.round_["layers"]}
        assert densities == pytest.approx({name: entry.masks[f"{name}.weight"].mean() for name in WEIGHTS})
        before = entry.masks


def test_what_stays_in_each_layer_is_what_its_scope_says(result: Result) -> None:
    """k exact: of each layer, of the network, of every row."""
    for number, entry in enumerate(numbered(result)):
        kept = {name: int(entry.masks[f"{name}.weight"].sum()) for name in WEIGHTS}
        scope, granularity = result.defaults["scope"]["kind"], result.defaults["granularity"]
        if granularity == "unit":
            units = {name: int(entry.masks[f"{name}.weight"].any(1).sum()) for name in UNITS}
            assert (entry.round_["num_units"], entry.round_["num_units_kept"]) == (400, sum(units.values()))
            assert entry.masks["fc3.weight"].any(1).all(), "the output layer is never pruned"
            left = dict(UNITS) if scope == "layerwise" else {"all": 400}
            for _ in range(number):
                left = {name: count - int(0.2 * count) for name, count in left.items()}
            assert (units if scope == "layerwise" else {"all": sum(units.values())}) == left
        elif scope == "layerwise" and result.defaults["schedule"]["kind"] == "fraction":
            left = dict(WEIGHTS)
            for _ in range(number):
                left = {n: count - int((0.1 if n == "fc3" else 0.2) * count + 0.5) for n, count in left.items()}
            assert kept == left
        elif scope == "layerwise":  # polynomial: 0.9 (1 - (1 - r / 2)^3)
            goal = [0, 0.9 * (1 - 0.5**3), 0.9][number]
            assert kept == {name: count - int(goal * count + 0.5) for name, count in WEIGHTS.items()}
        elif scope == "global":
            schedule, left = result.defaults["schedule"], sum(WEIGHTS.values())
            for _ in range(number):
                left -= int(schedule.get("fraction", schedule.get("sparsity")) * left + 0.5)
            assert sum(kept.values()) == left
        else:
            assert scope == "row"
            for name in WEIGHTS:
                rows = entry.masks[f"{name}.weight"]
                assert set(rows.sum(1)) == {rows.shape[1] // 2 if number else rows.shape[1]}


def test_the_ticket_is_the_first_weights_or_the_rewound(result: Result, first: dict[str, torch.Tensor]) -> None:
    rewinds = result.defaults["between_rounds"]["weights"] == "rewind"
    origin = result.entries[0].ticket if rewinds else {name: tensor.numpy() for name, tensor in first.items()}
    assert rewinds == any((origin[name] != first[name].numpy()).any() for name in origin)
    for entry in result.entries:
        for name, values in origin.items():
            assert (entry.ticket[name] == (values * entry.masks[name] if name in entry.masks else values)).all()


def test_what_follows_a_round_is_what_its_row_says(result: Result) -> None:
    rounds = [entry.round_ for entry in numbered(result)]
    if result.defaults["granularity"] == "weight":
        first_step = REWIND_STEP if result.name == "rewind" else 0
        assert [round_["steps"] for round_ in rounds] == [NUM_STEPS] + [NUM_STEPS - first_step] * (len(rounds) - 1)
    controls = {"random_reinit": ["random_reinit"], "random_mask": ["random_mask"]}.get(result.name, [])
    assert [list(round_["controls"]) for round_ in rounds] == [[]] + [controls] * (len(rounds) - 1)
    for round_ in rounds[1:]:
        for name in controls:
            assert round_["controls"][name]["steps"] == NUM_STEPS
            assert round_["controls"][name]["metrics"].keys() == {"train", "validation", "test"}
            assert round_["seconds"][name] > 0
    finals = [entry for entry in result.entries if entry.round_["number"] is None]
    assert len(finals) == (result.name == "lottery_ticket_continue")
    for final in finals:
        assert final.round_["steps"] == NUM_STEPS
        assert all((final.masks[name] == mask).all() for name, mask in numbered(result)[-1].masks.items())


def test_the_test_split_and_every_phase_are_reported(result: Result) -> None:
    for entry in result.entries:
        round_ = entry.round_
        assert round_["metrics"].keys() == round_["delta"].keys() == {"train", "validation", "test"}
        assert {"prune", "train", "evaluate"} <= round_["seconds"].keys()
        assert 0 < round_["macs"]["effective"] <= round_["macs"]["dense"] == sum(WEIGHTS.values())
        assert round_["latency_ms"]["conditions"].keys() == {"batch", "threads", "device", "num_forwards"}
        assert round_["size_bytes"]["sparse"] > 0
        assert 0 < round_["latency_ms"]["p50"] <= round_["latency_ms"]["p95"]
        assert round_["compression_ratio"] >= 1
        assert "pruned weights are zero after training" in round_["invariants"]
        assert ("exactly k pruned" in round_["invariants"]) == bool(round_["number"]), "only where something was pruned"
