"""docs/client.md, docs/cli.md and docs/quickstart.md do what they show, against the whole service with its workers."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
import yaml

DOCS = Path(__file__).parents[2] / "docs"
API_KEY = "esp_a-key-for-the-end-to-end-tests"
NET = """
import torch
from torch import nn

torch.manual_seed(0)

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
"""


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / document).read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def digits() -> tuple[Any, Any]:
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    return images.reshape(-1, 1, 8, 8).astype("uint8"), labels


@pytest.mark.timeout(600)
def test_the_snippets_are_one_program(
    service: Any, digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ESPALIER_URL", service.url)
    monkeypatch.setenv("ESPALIER_API_KEY", API_KEY)
    namespace: dict[str, Any] = {"images": digits[0], "labels": digits[1]}
    for block in blocks("client.md", "python"):
        exec(compile(block, "client.md", "exec"), namespace)
    assert (namespace["job"]["conclusion"], namespace["job"]["selected_round"]) == ("passed", 2)
    assert set(namespace["files"]) == {"model", "masks", "ticket", "program", "card"}
    assert namespace["report"]["job"]["id"] == namespace["pareto"]["job"] == namespace["job"]["id"]
    assert all(file.is_file() for file in namespace["files"].values())
    printed = capsys.readouterr().out
    for word in ("not_found", "/recipe/strategy", "whsec_", "job.succeeded", "retry"):
        assert word in printed


def run_blocks(document: str, folder: Path, service: Any, python: str) -> str:
    """The document's bash blocks as one script in `folder`, which has to end with 0; its stdout."""
    for name, command in (("espalier", f'"{python}" -m espalier'), ("python", f'"{python}"')):
        (folder / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (folder / name).chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "XDG_CONFIG_HOME": str(folder / "config"),
        "ESPALIER_URL": service.url, "ESPALIER_API_KEY": API_KEY,
    }  # fmt: skip
    script = "set -euo pipefail\n" + "\n".join(blocks(document, "bash"))
    ended = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.timeout(600)
def test_the_commands_are_one_script(service: Any, python: str, digits: Any, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    images, labels = digits
    np.savez(tmp_path / "digits.npz", **{"train.inputs": images, "train.targets": labels})
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "labels.npy", labels)
    printed = run_blocks("cli.md", tmp_path, service, python)
    assert len(blocks("cli.md", "bash")) == 4
    for made in (
        "pruned/model.safetensors",
        "pruned/plot.svg",
        "one-shot/masks.safetensors",
        "dense/model.safetensors",
        "detached/model.safetensors",
        "compared/model.safetensors",
        "compared/table.csv",
        "compared/plot.svg",
    ):
        assert (tmp_path / made).stat().st_size > 0, made
    assert (tmp_path / "small.safetensors").is_file()
    assert printed.count("recipe\tround\tsparsity\taccuracy\tseeds\ttime") == 2
    assert "### Comparison passed" in printed
    assert "](plot.svg)" in (tmp_path / "compared" / "summary.md").read_text()


@pytest.mark.timeout(600)
def test_the_quick_start_prunes(service: Any, python: str, tmp_path: Path) -> None:
    printed = run_blocks("quickstart.md", tmp_path, service, python)
    assert len(blocks("quickstart.md", "bash")) == 2
    assert {"masks.safetensors", "model.safetensors", "plot.svg"} <= set(printed.split())


def test_the_workflows_inputs_are_the_actions() -> None:
    """The short workflows of README and quick start, as the one of docs/ci.md, ask for what action.yml takes."""
    inputs = yaml.safe_load((DOCS.parent / "action.yml").read_text())["inputs"]
    required = {name for name, row in inputs.items() if row["required"]}
    for document in ("quickstart.md", "../README.md"):
        [workflow] = [yaml.safe_load(block) for block in blocks(document, "yaml")]
        given = workflow["jobs"]["prune"]["steps"][-1]["with"]
        assert required <= set(given) <= set(inputs), document
