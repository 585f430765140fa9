"""Every kind of a job's plot is a picture, whatever the rounds' reports hold: they come from what is not trusted."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

Posted = Callable[..., dict[str, Any]]

KINDS = ("accuracy", "loss", "steps", "layers")
HUGE = 10**400  # JSON has it, and no float reaches it


def metrics(value: Any) -> dict[str, Any]:
    return {split: {"accuracy": value, "loss": value} for split in ("train", "validation", "test")}


def stopping(step: Any, value: Any) -> dict[str, Any]:
    return {"step": step, "metrics": metrics(value)}


HOSTILE: dict[str, dict[str, Any]] = {
    "nothing is measured": {"metrics": {}},
    "a split is empty": {"metrics": {"validation": {}}},
    "a split is none": {"metrics": {"validation": None, "train": 5, "test": "x"}},
    "all is missing": dict.fromkeys(("steps", "layers", "early_stopping", "seconds", "size_bytes", "macs")),
    "words": {"metrics": metrics("=cmd()"), "steps": "many", "early_stopping": stopping("early", "x")},
    "words that are numbers elsewhere": {"metrics": metrics("NaN"), "steps": "Infinity"},
    "huge": {"metrics": metrics(1.7e308), "steps": 10**18, "early_stopping": stopping(1, 1.7e308)},
    "beyond all floats": {"metrics": metrics(HUGE), "steps": HUGE, "early_stopping": stopping(HUGE, HUGE)},
    "huge and negative": {"metrics": metrics(-1.7e308), "steps": -(10**18), "early_stopping": stopping(-5, -1)},
    "steps that are just a float": {"steps": 1.7e308, "early_stopping": stopping(1e308, 0.5)},
    "tiny": {"metrics": metrics(5e-324), "steps": 0, "early_stopping": stopping(0, 5e-324)},
    "truth": {"metrics": metrics(True), "steps": True},
    "lists": {"metrics": metrics([1]), "steps": [1], "early_stopping": [1], "layers": [[1], 5, None, "x"]},
    "early stopping is a word": {"early_stopping": "never"},
    "its metrics are a word": {"early_stopping": {"step": 3, "metrics": "none"}},
    "layers are a number": {"layers": 7},
    "layers are a word": {"layers": "fc1"},
    "layers are a mapping": {"layers": {"fc1": 0.5}},
    "layers of odd density": {
        "layers": [
            {"name": name, "density": density}
            for name, density in (
                *(("a", "x"), ("b", HUGE), ("c", -HUGE), ("d", 1.7e308), ("e", -1), ("f", None), ("g", True)),
                *((None, 0.5), (5, 0.5), ({}, 0.5), ("$\\frac{</svg><script>" + "long " * 99, 0.5), ("", 0.0)),
            )
        ]
    },
    "many layers": {"layers": [{"name": f"layer {index}", "density": 0.5} for index in range(500)]},
}


@pytest.mark.parametrize("report", HOSTILE.values(), ids=HOSTILE)
def test_a_picture_of_whatever_is_reported(
    client: TestClient, posted: Posted, bench: Any, report: dict[str, Any], subtests: pytest.Subtests
) -> None:
    """Between two rounds as they should be."""
    job_id, job = posted()["id"], bench.claim()
    bench.store_round(job, 0, 0.9, 0.0)
    bench.store_round(job, 1, 0.8, 0.2, **report)
    bench.store_round(job, 2, 0.7, 0.4, layers=[{"name": "fc1", "density": 0.6}])
    bench.complete(job, 1)
    for kind in KINDS:
        with subtests.test(kind=kind):
            check(client, f"/v1/jobs/{job_id}/plot.svg?kind={kind}")


@pytest.mark.parametrize("name", ["words", "beyond all floats", "lists", "nothing is measured", "a split is none"])
def test_a_picture_where_the_dense_network_is_odd(
    client: TestClient, posted: Posted, bench: Any, name: str, subtests: pytest.Subtests
) -> None:
    """Floor and gates are held against it."""
    gates = [{"metric": "accuracy_ratio", "value": 0.9}]
    job_id, job = posted(gates=gates)["id"], bench.claim()
    bench.store_round(job, 0, 0.9, 0.0, **HOSTILE[name])
    bench.store_round(job, 1, 0.8, 0.2)
    for kind in KINDS:
        with subtests.test(kind=kind):
            check(client, f"/v1/jobs/{job_id}/plot.svg?kind={kind}&theme=dark")


def test_a_picture_of_no_round(client: TestClient, posted: Posted) -> None:
    job_id = posted()["id"]
    for kind in KINDS:
        check(client, f"/v1/jobs/{job_id}/plot.svg?kind={kind}")


def check(client: TestClient, address: str) -> None:
    answer = client.get(address)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/svg+xml"
    tags = {element.tag.rpartition("}")[2] for element in ET.fromstring(answer.content).iter()}
    assert "path" in tags
    assert {"script", "foreignObject", "a"}.isdisjoint(tags)
