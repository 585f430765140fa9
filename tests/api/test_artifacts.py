"""Artifacts of a job: which there are, and how their files are downloaded, from a folder and from a bucket."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from store import jobs
from store.blobs import BlobStore, open_blobs, refer
from store.settings import Settings

Refused = Callable[..., dict[str, Any]]


@pytest.fixture
def settings(settings: Settings, blob_url: str | None) -> Settings:
    return settings.model_copy(update={"blob_url": blob_url})


@pytest.fixture
def blobs(settings: Settings) -> BlobStore:
    return open_blobs(settings)


def test_artifacts_are_those_that_the_job_offers(client: TestClient, job_id: str) -> None:
    artifacts = client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]
    assert [(a["round"], a["kind"]) for a in artifacts] == [
        (number, kind) for number in (0, 1, 2, 3, "final") for kind in ("model", "sparse")
    ]
    first = artifacts[0]
    assert first.keys() == {
        "id", "object", "job", "round", "kind", "format", "filename", "size_bytes", "sha256", "verified", "created_at",
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
        ("bytes=-", 200, BYTES, None),
        (f"bytes=0-{'9' * 18}", 206, BYTES, "bytes 0-7/8"),
        (f"bytes=-{'9' * 18}", 206, BYTES, "bytes 0-7/8"),
        (f"bytes=0-{'9' * 5000}", 200, BYTES, None),
    ]:
        with subtests.test(given=given, status=status, expected=expected, content_range=content_range):
            response = client.get(content, headers={"Range": given})
            assert (response.status_code, response.content) == (status, expected)
            assert response.headers.get("content-range") == content_range
            assert response.headers["etag"] == ETAG
            assert response.headers["repr-digest"] == DIGEST


def test_a_range_behind_the_end(client: TestClient, content: str, refused: Refused) -> None:
    for given in ("bytes=8-", "bytes=-0"):
        response = client.get(content, headers={"Range": given})
        refused(response, 416, "range_not_satisfiable", "header:range")
        assert response.headers["content-range"] == "bytes */8"


def test_a_download_is_continued_only_of_the_same_content(client: TestClient, content: str) -> None:
    same = client.get(content, headers={"Range": "bytes=4-", "If-Range": ETAG})
    assert (same.status_code, same.content) == (206, BYTES[4:])
    for other in ('"sha256:00"', f"W/{ETAG}"):
        whole = client.get(content, headers={"Range": "bytes=4-", "If-Range": other})
        assert (whole.status_code, whole.content) == (200, BYTES)


def test_several_ranges_are_answered_with_the_whole(client: TestClient, content: str) -> None:
    """RFC 9110, 14.2: a server may ignore them."""
    response = client.get(content, headers={"Range": "bytes=0-1,6-7"})
    assert (response.status_code, response.content) == (200, BYTES)


def test_the_head_of_a_range_is_that_of_the_whole(client: TestClient, content: str) -> None:
    """RFC 9110, 14.2: ranges are defined for GET alone."""
    for given in ("bytes=2-4", "bytes=8-", "bytes=0-1,6-7"):
        response = client.head(content, headers={"Range": given})
        assert (response.status_code, response.headers["content-length"]) == (200, "8")


def test_the_same_bytes_are_the_same_file(client: TestClient, job_id: str, content: str) -> None:
    """What its document promises of a download is so, for every artifact."""
    for artifact in client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]:
        downloaded = client.get(f"/v1/artifacts/{artifact['id']}/content")
        assert downloaded.content == f"{artifact['kind']} {artifact['round']}".replace("final", "4").encode()
        assert hashlib.sha256(downloaded.content).hexdigest() == artifact["sha256"]
        assert len(downloaded.content) == artifact["size_bytes"]
        assert artifact["filename"] in downloaded.headers["content-disposition"]


def test_a_filename_is_quoted_or_encoded(client: TestClient, posted: Callable[..., Any], bench: Any) -> None:
    job_id, job = posted(artifacts=["model", "program"])["id"], bench.claim()
    bench.store_round(job, 0, 0.9, 0.0)
    blob = bench.blobs.put([BYTES], 100)
    with bench.database.transaction() as session:
        refer(session, blob)
        odd = 'ü"; x=\r\nX-Odd: 1.pt2'
        jobs.attach(session, job, 0, jobs.NewArtifact("program", "exported_program", odd, blob))
    artifact = client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"][1]
    headers = client.get(f"/v1/artifacts/{artifact['id']}/content").headers
    encoded = "%C3%BC%22%3B%20x%3D%0D%0AX-Odd%3A%201.pt2"
    assert headers["content-disposition"] == f"attachment; filename*=utf-8''{encoded}"
    assert "x-odd" not in headers
