"""Masked units are cut out of the selected round, over HTTP: a smaller network that computes the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from espalier import ApiError, Client, export_model
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

from pruning.formats.architectures import build


class Sapling(nn.Module):
    """Convolutions with batch-norm and an addition, then a linear layer: all of them lose units."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.branch, self.hidden, self.head = nn.Conv2d(12, 12, 3, padding=1), nn.Linear(12 * 16, 40), nn.Linear(40, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(images)))
        x = nn.functional.max_pool2d(torch.relu(x + self.branch(x)), 2)
        logits: Tensor = self.head(torch.relu(self.hidden(x.flatten(1))))
        return logits


@pytest.fixture(scope="module")
def splits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    digits = load_digits()
    inputs, labels = digits.images.astype(np.float32)[:, None] / 16, digits.target.astype(np.int64)
    return {"train": (inputs[:1200], labels[:1200]), "validation": (inputs[1200:], labels[1200:])}


FIRST = ["model", "masks", "ticket"]
RECIPE = {
    "strategy": "dropnet",
    "schedule": {"fraction": 0.5},
    "stop": {"rounds": 1, "accuracy_floor": None},
    "training": {"epochs": 2},
}


def selected_files(client: Client, job: object, folder: Path) -> dict[str, Path]:
    [chosen] = [round_ for round_ in client.rounds(job["id"]) if round_["selected"]]
    assert chosen["number"] == 1
    return {a["kind"]: client.download(a, folder / a["filename"]) for a in chosen["artifacts"]}


def test_a_stranger_comes_back_smaller(client: Client, splits: dict, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = client.upload_model(export_model(Sapling(), torch.zeros(2, 1, 8, 8), tmp_path / "sapling.pt2"))
    recipe = {**RECIPE, "materialize": {"round_to": 4}}
    job = client.create_job(model=model, dataset=client.upload_dataset(splits), recipe=recipe, select="last")
    assert job["artifacts"] == [*FIRST, "program", "reduced_program", "reduced_model", "plan", "card"]
    job = client.wait(job["id"], timeout_seconds=60)
    files = selected_files(client, job, tmp_path)
    masked, reduced = (torch.export.load(files[kind]).module() for kind in ("program", "reduced_program"))
    images = torch.from_numpy(splits["validation"][0])
    with torch.no_grad():
        assert torch.allclose(masked(images), reduced(images), atol=1e-5)
    weights, plan = load_file(files["reduced_model"]), json.loads(files["plan"].read_text())
    widths = {group["name"]: (group["old_width"], group["new_width"]) for group in plan["groups"]}
    assert widths["hidden"][1] < 40
    assert all(new % 4 == 0 for _, new in widths.values())
    assert {name: tuple(tensor.shape) for name, tensor in reduced.state_dict().items()} == {
        name: tuple(tensor.shape) for name, tensor in weights.items()
    }
    for cut in plan["tensors"]:
        assert weights[cut["name"]].shape[cut["dim"]] == cut["new_size"] == len(cut["kept"])
    before, after = plan["sizes"]["before"], plan["sizes"]["after"]
    assert after["num_parameters_total"] == sum(t.numel() for n, t in weights.items() if "running" not in n) - 1
    assert after["num_parameters_total"] < 0.7 * before["num_parameters_total"]
    assert after["macs"]["dense"] < before["macs"]["dense"]
    assert after["latency_ms"]["conditions"]["threads"] >= 1
    again = client.upload_model(files["reduced_program"], name="the smaller network is a model again")
    assert again["num_parameters"] == after["num_parameters"]


def test_a_named_architecture_comes_back_as_weights_and_plan(client: Client, splits: dict, tmp_path: Path) -> None:
    save_file(build("lenet_300_100", (1, 8, 8)).state_dict(), tmp_path / "lenet.safetensors")
    model = client.upload_model(
        tmp_path / "lenet.safetensors", architecture="lenet_300_100", input_shape=(1, 8, 8), num_classes=10
    )
    dataset = client.upload_dataset(splits)
    job = client.create_job(model=model, dataset=dataset, recipe={**RECIPE, "materialize": True}, select="last")
    assert job["artifacts"] == [*FIRST, "reduced_program", "reduced_model", "plan", "card"]
    assert job["recipe"]["materialize"] == {"round_to": 1}
    files = selected_files(client, client.wait(job["id"], timeout_seconds=60), tmp_path)
    full, small = load_file(files["model"]), load_file(files["reduced_model"])
    # A user follows the plan by hand.
    for cut in json.loads(files["plan"].read_text())["tensors"]:
        full[cut["name"]] = full[cut["name"]].index_select(cut["dim"], torch.tensor(cut["kept"]))
    assert full.keys() == small.keys()
    assert all(torch.equal(full[name], small[name]) for name in full)
    masked = build("lenet_300_100", (1, 8, 8))
    masked.load_state_dict(load_file(files["model"]))
    x = torch.from_numpy(splits["validation"][0])
    with torch.no_grad():
        logits = masked.eval()(x)
        x = x.flatten(1)
        for layer in ("fc1", "fc2", "fc3"):
            x = nn.functional.linear(
                x if layer == "fc1" else x.relu(), small[f"{layer}.weight"], small[f"{layer}.bias"]
            )
        reduced = torch.export.load(files["reduced_program"]).module()(torch.from_numpy(splits["validation"][0]))
    assert torch.allclose(logits, x, atol=1e-5)
    assert torch.allclose(logits, reduced, atol=1e-5)


def test_what_nobody_removes_cannot_be_asked_for(client: Client) -> None:
    with pytest.raises(ApiError) as refused:
        client.create_job(model="mdl_x", dataset="ds_x", recipe=RECIPE, artifacts=["model", "reduced_model"])
    assert "set recipe.materialize to true" in str(refused.value)
    assert "/artifacts/1" in str(refused.value.problem)
