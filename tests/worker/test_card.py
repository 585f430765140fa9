"""The card takes nothing that it shows on trust."""

from __future__ import annotations

import re
from typing import Any

from store.tables import Artifact, Dataset, Job, Model, Round
from worker.card import card


def entry(position: int, sparsity: float, report: dict[str, Any]) -> Round:
    return Round(
        position=position, number=position, sparsity=sparsity, report={"metrics": {}, **report}, created_at=86400.0
    )


def card_of(rounds: list[Round], name: str = "lenet", **columns: Any) -> str:
    job = Job(id="job_1", recipe={"strategy": "dropnet", "granularity": "unit"}, gates=[], **columns)
    file = Artifact(kind="model", filename="model.safetensors", size_bytes=12345, blob_digest="ab" * 32)
    model, dataset = Model(name=name, blob_digest="cd" * 32), Dataset(name="digits", blob_digest="ef" * 32)
    return card(job, model, dataset, rounds, [file], rounds[-1].position, True)


def test_the_selected_round_is_told_and_marked() -> None:
    reports = [
        {"metrics": {"validation": {"accuracy": accuracy}, "test": {"accuracy": accuracy}}, "num_nonzero": 266_200}
        for accuracy in (0.98, 0.975)
    ]
    text = card_of([entry(0, 0.0, reports[0]), entry(1, 0.99951, reports[1])])
    assert "**99.951% of the prunable units are removed**, validation accuracy 0.975 (dense: 0.98)." in text
    assert "| Round 0 | 0.0% | 0.98 | 0.98 | 266,200 |  |  |" in text
    assert "| **Round 1** | **99.951%** | **0.975** |" in text
    assert f"| `model.safetensors` | model | 12,345 | `{'ab' * 32}` |" in text
    assert "on 1970-01-02, job job_1." in text


def test_a_strange_report_leaves_its_cells_empty() -> None:
    """Written by a process that is not trusted; a card that fails would keep a job from ending."""
    strange = [
        {"metrics": {"validation": {"loss": 10**400}}},
        {"metrics": {"validation": "much"}, "num_nonzero": "<script>", "compression_ratio": True, "size_bytes": [1]},
        {"metrics": {"validation": {"loss": 0.5}}, "num_nonzero": None, "size_bytes": {"sparse": 4.5}},
    ]
    text = card_of([entry(position, 0.5, report) for position, report in enumerate(strange)])
    assert "| Round 1 | 50.0% |  |  |  |  |  |" in text
    assert "validation loss 0.5." in text
    assert "<script>" not in text


def test_a_name_is_no_markup() -> None:
    text = card_of([entry(0, 0.0, {})], "# [x](http://e.vil) | <img src=x>\n\n## `more` \x1b")
    first = text.partition("\n\n")[0]
    assert first.endswith("pruned by dropnet")
    assert "\x1b" not in first
    assert not set(re.sub(r"\\.", "", first).removeprefix("# ")) & set("[]()<>|`#"), "all are escaped"
