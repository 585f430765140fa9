"""What a job asks for beyond weights, and whether this worker has what it takes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from worker.exports import FILES, missing_extra
from worker.runner import Runner


def test_only_what_onnx_needs_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_extra([*FILES, "card", "model"]) is None
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert missing_extra([kind for kind in FILES if "onnx" not in kind]) is None
    assert missing_extra(["model", "reduced_onnx"]) == "onnx"


def test_a_job_that_cannot_end_as_asked_does_not_begin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """There is no model to be read yet: it says so before."""
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    recipe = {"strategy": "lottery_ticket_reset", "stop": {"rounds": 1}}
    terms = {"cuda_device": None, "gpu_memory_fraction": 1.0, "folder": str(tmp_path)}
    order = {**terms, "work": "prune", "recipe": recipe, "gates": [], "artifacts": ["model", "onnx"]}
    read, write = os.pipe()
    runner = Runner.__new__(Runner)
    with monkeypatch.context() as patch:
        patch.setattr("signal.signal", lambda *_: None)  # the test's own process keeps its handlers
        runner.__init__(write, order)  # type: ignore[misc]
    runner.run()
    runner._pipe.close()
    with os.fdopen(read) as pipe:
        started, failed = map(json.loads, pipe)
    assert (started["type"], failed["type"], failed["code"]) == ("started", "failed", "extra_missing")
    assert "espalier-server[worker,onnx]" in failed["message"]
