"""docs/client.md and docs/cli.md do what they show, against the whole service with its workers."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.datasets

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
    assert set(namespace["files"]) == {"model", "masks", "ticket", "program"}
    assert namespace["report"]["job"]["id"] == namespace["pareto"]["job"] == namespace["job"]["id"]
    assert all(file.is_file() for file in namespace["files"].values())
    printed = capsys.readouterr().out
    for word in ("not_found", "/recipe/strategy", "whsec_", "job.succeeded", "retry"):
        assert word in printed


@pytest.mark.timeout(600)
def test_the_commands_are_one_script(service: Any, python: str, digits: Any, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "espalier").write_text(f'#!/bin/sh\nexec "{python}" -m espalier "$@"\n')
    (tmp_path / "espalier").chmod(0o755)
    images, labels = digits
    np.savez(tmp_path / "digits.npz", **{"train.inputs": images, "train.targets": labels})
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "labels.npy", labels)
    environment = {
        **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "ESPALIER_URL": service.url, "ESPALIER_API_KEY": API_KEY,
    }  # fmt: skip
    script = "set -euo pipefail\n" + "\n".join(blocks("cli.md", "bash"))
    ended = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
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
    assert ended.stdout.count("recipe\tround\tsparsity\taccuracy\tseeds\ttime") == 2
    assert "### Comparison passed" in ended.stdout
    assert "](plot.svg)" in (tmp_path / "compared" / "summary.md").read_text()
