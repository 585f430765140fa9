"""Rounds and artifacts of a job: what they show, and how files are downloaded."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

Refused = Callable[..., dict[str, Any]]
Posted = Callable[..., dict[str, Any]]


@pytest.fixture
def job_id(client: TestClient, posted: Posted, bench: Any) -> str:
    """Of rounds 0 to 3 and an untrained final entry; model and sparse are offered, masks are not."""
    job_id: str = posted(artifacts=["model", "sparse"])["id"]
    job = bench.claim()
    for position, (accuracy, sparsity) in enumerate([(0.9, 0.0), (0.95, 0.2), (0.85, 0.4), (0.8, 0.4)]):
        bench.store_round(job, position, accuracy, sparsity)
    bench.store_round(job, 4, None, 0.9, final=True)
    bench.complete(job, 2)
    return job_id


def test_a_round_has_every_promised_field(client: TestClient, job_id: str, bench: Any) -> None:
    page = client.get(f"/v1/jobs/{job_id}/rounds").json()
    assert (page["object"], page["has_more"], page["next_cursor"]) == ("list", False, None)
    promised = {
        "number", "sparsity", "num_parameters", "num_nonzero", "num_parameters_total", "num_nonzero_total", "layers",
        "metrics", "early_stopping", "delta", "size_bytes", "macs", "latency_ms", "seconds", "pareto", "artifacts",
    }  # fmt: skip
    for round_ in page["data"]:
        assert promised <= round_.keys()
        assert round_["object"] == "round"
    assert [round_["number"] for round_ in page["data"]] == [0, 1, 2, 3, None]
    assert [round_["final"] for round_ in page["data"]] == [False] * 4 + [True]
    assert [round_["selected"] for round_ in page["data"]] == [False, False, True, False, False]
    second = page["data"][1]
    assert second["metrics"]["validation"] == {"accuracy": 0.95, "loss": pytest.approx(0.05)}
    assert second["delta"]["validation"] == {"accuracy": pytest.approx(0.05), "loss": pytest.approx(-0.05)}
    assert second["latency_ms"]["conditions"] == {"threads": 1}
    assert page["data"][0]["delta"]["train"] == {"accuracy": 0, "loss": 0}
    assert page["data"][4]["delta"] == {}
    # An untrained entry has no accuracy to stand for; round 3 is as sparse as round 2 and worse; round 1 beats 0.
    assert [round_["pareto"] for round_ in page["data"]] == [False, True, True, False, False]


def test_further_fields_of_a_report_are_passed_on(client: TestClient, posted: Posted, bench: Any) -> None:
    job_id = posted()["id"]
    bench.store_round(bench.claim(), 0, 0.9, 0.0, num_units=40, num_units_kept=32, object="odd", pareto="odd")
    [round_] = client.get(f"/v1/jobs/{job_id}/rounds").json()["data"]
    assert (round_["num_units"], round_["num_units_kept"]) == (40, 32)
    assert (round_["object"], round_["pareto"]) == ("round", True)


def test_one_round(client: TestClient, job_id: str, refused: Refused) -> None:
    rounds = client.get(f"/v1/jobs/{job_id}/rounds").json()["data"]
    for name, round_ in zip(("0", "1", "2", "3", "final"), rounds, strict=True):
        assert client.get(f"/v1/jobs/{job_id}/rounds/{name}").json() == round_
    for name in ("4", "-1", "null", "None", "01"):
        refused(client.get(f"/v1/jobs/{job_id}/rounds/{name}"), 404, "not_found")


def test_no_rounds_yet(client: TestClient, posted: Posted, refused: Refused) -> None:
    job_id = posted()["id"]
    assert client.get(f"/v1/jobs/{job_id}/rounds").json()["data"] == []
    assert client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"] == []
    refused(client.get(f"/v1/jobs/{job_id}/rounds/0"), 404, "not_found")


def test_artifacts_are_those_that_the_job_offers(client: TestClient, job_id: str) -> None:
    artifacts = client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]
    assert [(a["round"], a["kind"]) for a in artifacts] == [
        (number, kind) for number in (0, 1, 2, 3, "final") for kind in ("model", "sparse")
    ]
    first = artifacts[0]
    assert first.keys() == {
        "id", "object", "job", "round", "kind", "format", "filename", "size_bytes", "sha256", "created_at",
    }  # fmt: skip
    assert (first["object"], first["job"], first["filename"]) == ("artifact", job_id, "model.safetensors")
    assert first["sha256"] == hashlib.sha256(b"model 0").hexdigest()
    assert first["size_bytes"] == 7
    assert client.get(f"/v1/artifacts/{first['id']}").json() == first
    rounds = client.get(f"/v1/jobs/{job_id}/rounds").json()["data"]
    assert [a for round_ in rounds for a in round_["artifacts"]] == artifacts


def test_what_is_not_offered_is_not_there(client: TestClient, job_id: str, refused: Refused, bench: Any) -> None:
    with bench.database.reading() as session:
        masks = session.connection().exec_driver_sql("select id from artifacts where kind = 'masks'").scalars().first()
    refused(client.get(f"/v1/artifacts/{masks}"), 404, "not_found")
    refused(client.get(f"/v1/artifacts/{masks}/content"), 404, "not_found")


@pytest.fixture
def content(client: TestClient, job_id: str) -> str:
    """Path of the content `sparse 2`."""
    artifacts = client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]
    [artifact] = [a for a in artifacts if (a["round"], a["kind"]) == (2, "sparse")]
    return f"/v1/artifacts/{artifact['id']}/content"


BYTES = b"sparse 2"
ETAG = f'"sha256:{hashlib.sha256(BYTES).hexdigest()}"'
DIGEST = f"sha-256=:{base64.b64encode(hashlib.sha256(BYTES).digest()).decode()}:"


def test_content(client: TestClient, content: str) -> None:
    for method, body in (("GET", BYTES), ("HEAD", b"")):
        response = client.request(method, content)
        assert (response.status_code, response.content) == (200, body)
        assert response.headers["etag"] == ETAG
        assert response.headers["repr-digest"] == DIGEST
        assert response.headers["content-length"] == "8"
        assert response.headers["content-type"] == "application/octet-stream"
        assert response.headers["content-disposition"] == 'attachment; filename="sparse.safetensors"'
        assert response.headers["accept-ranges"] == "bytes"
        assert response.headers["x-content-type-options"] == "nosniff"


def test_content_that_the_caller_has(client: TestClient, content: str, subtests: pytest.Subtests) -> None:
    for given in [ETAG, f"W/{ETAG}", f'"x", {ETAG}', "*"]:
        with subtests.test(given=given):
            for method in ("GET", "HEAD"):
                response = client.request(method, content, headers={"If-None-Match": given})
                assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", ETAG)
            assert client.get(content, headers={"If-None-Match": '"x"'}).content == BYTES


def test_ranges(client: TestClient, content: str, subtests: pytest.Subtests) -> None:
    for given, status, expected, content_range in [
        ("bytes=2-4", 206, BYTES[2:5], "bytes 2-4/8"),
        ("bytes=6-", 206, BYTES[6:], "bytes 6-7/8"),
        ("bytes=-3", 206, BYTES[-3:], "bytes 5-7/8"),
        ("bytes=0-999", 206, BYTES, "bytes 0-7/8"),
        ("bytes=5-2", 200, BYTES, None),
        ("bytes=x-y", 200, BYTES, None),
        ("pages=1-2", 200, BYTES, None),
        ("nonsense", 200, BYTES, None),
    ]:
        with subtests.test(given=given, status=status, expected=expected, content_range=content_range):
            response = client.get(content, headers={"Range": given})
            assert (response.status_code, response.content) == (status, expected)
            assert response.headers.get("content-range") == content_range
            assert response.headers["etag"] == ETAG
            assert response.headers["repr-digest"] == DIGEST


def test_a_range_behind_the_end(client: TestClient, content: str, refused: Refused) -> None:
    response = client.get(content, headers={"Range": "bytes=8-"})
    refused(response, 416, "range_not_satisfiable", "header:range")
    assert response.headers["content-range"] == "bytes */8"


def test_a_download_is_continued_only_of_the_same_content(client: TestClient, content: str) -> None:
    same = client.get(content, headers={"Range": "bytes=4-", "If-Range": ETAG})
    assert (same.status_code, same.content) == (206, BYTES[4:])
    for other in ('"sha256:00"', f"W/{ETAG}"):
        whole = client.get(content, headers={"Range": "bytes=4-", "If-Range": other})
        assert (whole.status_code, whole.content) == (200, BYTES)


def test_another_projects_artifact_is_as_none(
    client: TestClient, content: str, other: dict[str, str], refused: Refused
) -> None:
    for path in (content, content.removesuffix("/content")):
        refused(client.get(path, headers=other), 404, "not_found")
    assert client.head(content, headers=other).status_code == 404
    refused(client.get("/v1/artifacts/art_1/content"), 404, "not_found")
