"""A job as a table, and as a picture."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from store.tables import Model

Refused = Callable[..., dict[str, Any]]
Posted = Callable[..., dict[str, Any]]

COLUMNS = [
    "round",
    "sparsity",
    "pareto",
    "selected",
    "validation_accuracy",
    "validation_loss",
    "validation_f1",
    "validation_mae",
    "validation_r2",
    "validation_perplexity",
    "test_accuracy",
    "test_loss",
    "test_f1",
    "test_mae",
    "test_r2",
    "test_perplexity",
    "num_parameters",
    "num_nonzero",
    "num_units",
    "num_units_kept",
    "compression_ratio",
    "size_bytes_dense",
    "size_bytes_sparse",
    "macs_dense",
    "macs_effective",
]
"""A column is never renamed, moved or dropped: scripts read them. New ones come last."""


def test_the_front(client: TestClient, job_id: str) -> None:
    pareto = client.get(f"/v1/jobs/{job_id}/pareto").json()
    assert (pareto["object"], pareto["job"], pareto["metric"]) == ("pareto", job_id, "accuracy")
    assert [(r["round"], r["validation_accuracy"], r["selected"]) for r in pareto["data"]] == [
        (1, 0.95, False),
        (2, 0.85, True),
    ]
    first = pareto["data"][0]
    assert list(first) == COLUMNS
    assert (first["sparsity"], first["num_nonzero"], first["size_bytes_sparse"], first["macs_effective"]) == (
        0.2, 1776, 5000, 1776,
    )  # fmt: skip
    assert (first["test_accuracy"], first["num_units"]) == (None, None)


def test_all_trained_rounds(client: TestClient, job_id: str) -> None:
    """The untrained final entry has nothing to show."""
    rows = client.get(f"/v1/jobs/{job_id}/pareto?rounds=all").json()["data"]
    assert [(r["round"], r["pareto"]) for r in rows] == [(0, False), (1, True), (2, True), (3, False)]


def test_json_or_csv(client: TestClient, job_id: str, subtests: pytest.Subtests) -> None:
    del client.headers["accept"]
    for path, accept, kind in [
        ("pareto", None, "application/json"),
        ("pareto", "*/*", "application/json"),
        ("pareto", "text/csv", "text/csv"),
        ("pareto", "application/json;q=0.5, text/csv", "text/csv"),
        ("pareto", "text/*, application/json;q=0.9", "text/csv"),
        ("pareto", "text/csv;q=0.1, */*", "application/json"),
        ("pareto", "text/csv;q=0, text/csv;q=nan, ;;,", "application/json"),
        ("pareto.csv", "application/json", "text/csv"),
    ]:
        with subtests.test(path=path, accept=accept):
            response = client.get(f"/v1/jobs/{job_id}/{path}", headers={"Accept": accept} if accept else {})
            assert response.headers["content-type"].partition(";")[0] == kind
            assert response.headers["vary"] == "Accept"


def test_csv(client: TestClient, job_id: str) -> None:
    response = client.get(f"/v1/jobs/{job_id}/pareto.csv?rounds=all")
    header, *rows = csv.reader(io.StringIO(response.text, newline=""))
    assert header == COLUMNS
    table = client.get(f"/v1/jobs/{job_id}/pareto?rounds=all").json()["data"]
    words = {"None": "", "True": "true", "False": "false"}
    assert rows == [[words.get(str(value), str(value)) for value in row.values()] for row in table]
    assert response.headers["content-disposition"] == f'attachment; filename="{job_id}.csv"'


def test_only_numbers_are_taken_from_a_report(client: TestClient, posted: Posted, bench: Any) -> None:
    """It comes from a process that is not trusted: what a spreadsheet would run is no number."""
    job_id = posted()["id"]
    odd = {"num_parameters": "=cmd()", "num_nonzero": True, "macs": [1], "size_bytes": {"dense": {}, "sparse": 5}}
    bench.store_round(bench.claim(), 0, 0.9, 0.0, **odd)
    [row] = client.get(f"/v1/jobs/{job_id}/pareto").json()["data"]
    assert (row["num_parameters"], row["num_nonzero"], row["macs_dense"]) == (None, None, None)
    assert (row["size_bytes_dense"], row["size_bytes_sparse"]) == (None, 5)
    assert "cmd" not in client.get(f"/v1/jobs/{job_id}/pareto.csv").text


PATHS = ("pareto", "pareto?rounds=all", "pareto.csv", "plot.svg", "plot.svg?theme=dark", "plot.png")


def test_it_is_sent_again_only_when_the_job_has_changed(
    client: TestClient, posted: Posted, bench: Any, subtests: pytest.Subtests
) -> None:
    url = f"/v1/jobs/{posted()['id']}"
    before = {path: client.get(f"{url}/{path}") for path in PATHS}
    again = {
        path: client.get(f"{url}/{path}", headers={"If-None-Match": first.headers["etag"]})
        for path, first in before.items()
    }
    bench.store_round(bench.claim(), 0, 0.9, 0.0)
    for path, first in before.items():
        with subtests.test(path=path):
            assert (first.status_code, first.headers["cache-control"]) == (200, "private, no-cache")
            same = again[path]
            assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", first.headers["etag"])
            now = client.get(f"{url}/{path}", headers={"If-None-Match": first.headers["etag"]})
            assert now.status_code == 200
            assert now.headers["etag"] != first.headers["etag"]
            assert now.content != first.content
            assert client.get(f"{url}/{path}").content == now.content
    assert len({response.headers["etag"] for response in before.values()}) == len(PATHS), "one for each representation"


HOSTILE = 'x$\\frac{</svg><script>alert("&")</script> --> \x01\u202e\ud7ff日本 ' + "long " * 20


def test_a_picture_of_hostile_words_and_numbers(client: TestClient, posted: Posted, bench: Any) -> None:
    gates = [{"metric": "accuracy", "value": v} for v in (0.8, 1e300, -5e8)]
    gates += [{"metric": "accuracy_ratio", "value": v} for v in (0.9, 1e300)]
    job_id = posted(gates=[*gates, {"metric": "sparsity", "value": 0.5}])["id"]
    job = bench.claim()
    with bench.database.transaction() as session:
        session.get_one(Model, job.model_id).name = HOSTILE
    measured = [(0.0, 0.9), (1.0, 1e308), (0.999999999, -1e300), (0.5, 0.5)]
    for position, (sparsity, accuracy) in enumerate(measured):
        bench.store_round(job, position, accuracy, sparsity)
    bench.complete(job, 3)
    for theme in ("light", "dark"):
        svg = client.get(f"/v1/jobs/{job_id}/plot.svg?theme={theme}")
        assert svg.headers["content-type"] == "image/svg+xml"
        assert svg.headers["content-security-policy"].startswith("default-src 'none'")
        tags = {element.tag.rpartition("}")[2] for element in ET.fromstring(svg.content).iter()}
        assert "path" in tags
        assert {"script", "image", "foreignObject", "a", "text"}.isdisjoint(tags)
        png = client.get(f"/v1/jobs/{job_id}/plot.png?theme={theme}")
        assert (png.headers["content-type"], png.content[:8]) == ("image/png", b"\x89PNG\r\n\x1a\n")
        assert (int.from_bytes(png.content[16:20]), int.from_bytes(png.content[20:24])) == (1200, 720)


def test_a_picture_has_the_background_of_its_theme(client: TestClient, job_id: str, refused: Refused) -> None:
    for theme, background in (("light", "#ffffff"), ("dark", "#0d1117")):
        assert background in client.get(f"/v1/jobs/{job_id}/plot.svg?theme={theme}").text
    refused(client.get(f"/v1/jobs/{job_id}/plot.svg?theme=pink"), 422, "invalid_request", "query:theme")


def test_where_there_is_no_accuracy_it_is_of_the_loss(client: TestClient, posted: Posted, bench: Any) -> None:
    job_id, job = posted()["id"], bench.claim()
    for position, (loss, sparsity) in enumerate([(0.3, 0.0), (0.2, 0.2)]):
        bench.store_round(job, position, None, sparsity, metrics={"validation": {"loss": loss, "mae": loss}})
    pareto = client.get(f"/v1/jobs/{job_id}/pareto").json()
    assert (pareto["metric"], [r["validation_mae"] for r in pareto["data"]]) == ("loss", [0.2])
    assert "<!-- loss -->" in client.get(f"/v1/jobs/{job_id}/plot.svg").text
