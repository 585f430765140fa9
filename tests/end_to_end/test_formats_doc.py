"""docs/formats.md does what it shows, on the files of a real job, in an environment that has nothing of ours."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from espalier import Client, export_model
from lonely import make_environment, run
from sklearn.datasets import load_digits
from torch import nn

DOC = Path(__file__).parents[2] / "docs" / "formats.md"
NEEDED = ["numpy", "onnxruntime", "safetensors", "torch", "zstandard"]
KINDS = [
    *("model", "masks", "ticket", "sparse", "program", "onnx"),
    *("reduced_program", "reduced_model", "reduced_onnx", "plan", "card"),
]

NETWORK = """
import torch
from torch import nn


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.branch = nn.Conv2d(12, 12, 3, padding=1, groups=2)
        self.hidden, self.head = nn.Linear(12 * 16, 40), nn.Linear(40, 10)

    def forward(self, images):
        x = torch.relu(self.norm(self.stem(images)))
        x = nn.functional.max_pool2d(torch.relu(self.branch(x)), 2)
        return self.head(torch.relu(self.hidden(x.flatten(1))))
"""

CHECKS = """
assert all(dense[key].tobytes() == tensor.numpy().tobytes() for key, tensor in network.state_dict().items())
assert dense.keys() == network.state_dict().keys()
pruned = network.state_dict()
for state in (pruned, untrained.state_dict()):
    assert masks and not any(state[key].numpy()[~mask].any() for key, mask in masks.items())
assert 0 < sum(mask.sum() for mask in masks.values()) < 0.9 * sum(mask.size for mask in masks.values())
assert abs(outputs).max() > 0.1
for other in (program_outputs, reduced_outputs, onnx_outputs, reduced_onnx_outputs):
    assert other.shape == outputs.shape and abs(other - outputs).max() < 1e-4 * abs(outputs).max()
assert cut.keys() == smaller_tensors.keys()
assert all(np.array_equal(cut[key], smaller_tensors[key]) for key in cut)
assert sum(t.size for t in cut.values()) < 0.8 * sum(t.numel() for t in pruned.values())
assert any("blocks" in entry for entry in plan["tensors"])
import re
blocks = re.findall(r"```python\\n(.*?)```", card, re.DOTALL)
assert len(blocks) == 5
for block in blocks:
    names = {"model": Network(), "inputs": inputs}
    exec(block, names)
    if "outputs" in names:
        assert abs(np.asarray(torch.as_tensor(names["outputs"]).detach()) - outputs).max() < 1e-4 * abs(outputs).max()
    else:
        assert all(torch.equal(tensor, pruned[key]) for key, tensor in names["model"].state_dict().items())
print("all of it")
"""


@pytest.fixture(scope="module")
def job(client: Client, tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("network")
    names: dict[str, type[nn.Module]] = {}
    exec(NETWORK, names)
    torch.manual_seed(3)
    model = client.upload_model(
        export_model(names["Network"](), torch.zeros(2, 1, 8, 8), folder / "network.pt2"), name="digits [v2] | <b>"
    )
    digits = load_digits()
    inputs, labels = digits.images.astype(np.float32)[:, None] / 16, digits.target.astype(np.int64)
    dataset = client.upload_dataset(
        {"train": (inputs[:1200], labels[:1200]), "validation": (inputs[1200:], labels[1200:])}
    )
    recipe = {
        "strategy": "dropnet",
        "schedule": {"fraction": 0.5},
        "stop": {"rounds": 1, "accuracy_floor": None},
        "training": {"epochs": 2},
        "materialize": True,
    }
    gates = [{"metric": "accuracy", "op": ">=", "value": 0.01}]
    job = client.create_job(model=model, dataset=dataset, recipe=recipe, gates=gates, select="last", artifacts=KINDS)
    return client.wait(job["id"], timeout_seconds=110)


def test_every_file_is_used_without_us(client: Client, job: dict, tmp_path: Path) -> None:
    events = [(event["type"], event["data"]) for event in client.events(job["id"])]
    assert job["status"] == "succeeded", job["error"]
    [chosen] = [round_ for round_ in client.rounds(job["id"]) if round_["selected"]]
    assert {artifact["kind"] for artifact in chosen["artifacts"]} == set(KINDS), events
    folder = tmp_path / "files"
    folder.mkdir()
    for artifact in chosen["artifacts"]:
        client.download(artifact, folder / artifact["filename"])
    (folder / "network.py").write_text(NETWORK)
    np.save(folder / "inputs.npy", load_digits().images.astype(np.float32)[:50, None] / 16)
    blocks = re.findall(r"```(\w*)\n(.*?)```", DOC.read_text(), re.DOTALL)
    assert {language for language, _ in blocks} == {"python"}
    script = "\n".join(block for _, block in blocks)
    assert all(artifact["filename"] in script for artifact in chosen["artifacts"])
    assert run(make_environment(tmp_path / "venv", NEEDED), folder, script + CHECKS) == "all of it\n"


def test_an_onnx_file_says_how_it_was_checked_and_nothing_of_this_machine(
    client: Client, job: dict, tmp_path: Path
) -> None:
    artifacts = {artifact["kind"]: artifact for artifact in client.artifacts(job["id"]) if artifact["round"] == 1}
    for kind in ("onnx", "reduced_onnx"):
        verified = artifacts[kind]["verified"]
        assert verified["max_difference"] <= verified["tolerance"] * verified["largest_output"]
        assert verified["runtime"].startswith("onnxruntime ")
        content = client.download(artifacts[kind], tmp_path / kind).read_bytes()
        assert not [words for words in (b"site-packages", b"stack_trace", b".py", b"/out/") if words in content]
    assert [artifact["kind"] for artifact in artifacts.values() if artifact["verified"]] == ["onnx", "reduced_onnx"]
    assert (
        client.download(artifacts["onnx"], tmp_path / "again").stat().st_size > artifacts["reduced_onnx"]["size_bytes"]
    )


def test_a_card_tells_of_the_job_and_shows_its_plot(client: Client, job: dict, tmp_path: Path) -> None:
    card = client.download_card(job["id"], tmp_path / "card").read_text()
    assert "# digits \\[v2\\] \\| \\<b\\>, pruned by dropnet\n" in card
    assert "](plot.png)" in card
    assert (tmp_path / "card" / "plot.png").read_bytes().startswith(b"\x89PNG")
    rounds = client.rounds(job["id"])
    for round_ in rounds:
        cells = f"Round {round_['number']}", f"{round_['sparsity']['actual'] * 100:.1f}%"
        marked = [f"**{cell}**" for cell in cells] if round_["selected"] else cells
        assert f"| {' | '.join(marked)} | " in card
    for artifact in client.artifacts(job["id"]):
        assert (artifact["sha256"] in card) == (artifact["round"] == 1 and artifact["kind"] != "card")
    statement = client.provenance(artifact)
    assert statement["payloadType"]
    assert "Gates (accuracy \\>= 0\\.01): passed" in card
