"""A scan as JSON, CSV and picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

Refused = Callable[..., dict[str, Any]]
Posted = Callable[..., dict[str, Any]]

SCAN = [
    {
        "layer": layer,
        "size": 100,
        "points": [
            {"sparsity": 0.5, "metrics": {"accuracy": high, "loss": 0.1}},
            {"sparsity": 0.9, "metrics": {"accuracy": low, "loss": 0.9}},
        ],
    }
    for layer, high, low in (("fc1", 0.9, 0.8), ("fc2 <b>$x$</b>", 0.7, 0.3))
]
PATHS = ("sensitivity", "sensitivity.csv", "sensitivity.svg", "sensitivity.png")


@pytest.fixture
def scanned(client: TestClient, posted: Posted, bench: Any) -> Callable[[Any], str]:
    def make(scan: Any) -> str:
        job_id: str = posted(recipe={"strategy": "lottery_ticket_reset", "sensitivity": True})["id"]
        bench.store_round(bench.claim(), 0, 0.9, 0.0, sensitivity=scan)
        return job_id

    return make


def test_the_table(client: TestClient, scanned: Callable[[Any], str]) -> None:
    job_id = scanned(SCAN)
    document = client.get(f"/v1/jobs/{job_id}/sensitivity").json()
    assert (document["job"], document["metric"], document["data"]) == (job_id, "accuracy", SCAN)
    assert document["dense"]["accuracy"] == 0.9
    rows = list(csv.reader(io.StringIO(client.get(f"/v1/jobs/{job_id}/sensitivity.csv").text)))
    assert rows == [
        ["layer", "size", "sparsity", "accuracy"],
        *[
            [row["layer"], "100", str(p["sparsity"]), str(p["metrics"]["accuracy"])]
            for row in SCAN
            for p in row["points"]
        ],
    ]


def test_the_picture(client: TestClient, scanned: Callable[[Any], str]) -> None:
    job_id = scanned(SCAN)
    svg = client.get(f"/v1/jobs/{job_id}/sensitivity.svg?theme=dark")
    assert svg.headers["content-type"] == "image/svg+xml"
    assert "#0d1117" in svg.text
    assert "<b>" not in svg.text
    png = client.get(f"/v1/jobs/{job_id}/sensitivity.png")
    assert png.content.startswith(b"\x89PNG")
    again = client.get(f"/v1/jobs/{job_id}/sensitivity.png", headers={"If-None-Match": png.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("scan", [None, [], "x", [{"layer": 3}], [{"layer": "a", "size": 1, "points": []}]])
def test_a_child_that_lies_spoils_its_own_scan_alone(
    scan: Any, client: TestClient, scanned: Callable[[Any], str]
) -> None:
    job_id = scanned(scan)
    assert [client.get(f"/v1/jobs/{job_id}/{path}").status_code for path in PATHS] == [200] * 4
    assert client.get(f"/v1/jobs/{job_id}/rounds").status_code == 200


def test_what_is_not_there(client: TestClient, posted: Posted, bench: Any, refused: Refused) -> None:
    without = posted()["id"]
    waiting = posted(recipe={"strategy": "lottery_ticket_reset", "sensitivity": True})["id"]
    for path in PATHS:
        refused(client.get(f"/v1/jobs/{without}/{path}"), 409, "no_sensitivity")
        refused(client.get(f"/v1/jobs/{waiting}/{path}"), 409, "not_measured_yet")
