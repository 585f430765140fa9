"""The API on S3: files of many parts in and out; and what it says, and loses, while the server is away: nothing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from s3 import S3Server
from starlette.testclient import TestClient

from store.blobs import BlobStore, located, open_blobs
from store.database import Database
from store.settings import Settings

Refused = Callable[..., dict[str, Any]]
MIB = 1 << 20


pytestmark = pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)  # as in production


@pytest.fixture
def settings(settings: Settings, s3: S3Server) -> Settings:
    return settings.model_copy(update={"blob_url": "s3://bucket/prefix"})


@pytest.fixture
def blobs(settings: Settings) -> BlobStore:
    return open_blobs(settings)


def safetensors(num_bytes: int) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [num_bytes], "data_offsets": [0, num_bytes]}}).encode()
    return len(header).to_bytes(8, "little") + header + os.urandom(num_bytes)


def test_a_large_file_in(client: TestClient, settings: Settings, database: Database) -> None:
    content = safetensors(20 * MIB)
    response = client.post("/v1/datasets?format=safetensors", content=content)
    assert response.status_code == 201, response.text
    assert response.json()["sha256"] == hashlib.sha256(content).hexdigest()
    with database.reading() as session:
        blob = located(session, response.json()["sha256"])
    assert b"".join(open_blobs(settings).read(blob)) == content


def test_while_the_server_is_away(client: TestClient, s3: S3Server, job_id: str, refused: Refused) -> None:
    [artifact, *_] = client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]
    before = client.get("/v1/datasets").json()["data"]
    s3.process.kill()
    s3.process.wait()

    response = client.post("/v1/datasets?format=safetensors", content=safetensors(1000))
    assert refused(response, 503, "unavailable")["retryable"] is True
    assert response.headers["retry-after"] == "1"
    assert client.get("/v1/datasets").json()["data"] == before, "no row without its content"

    download = client.get(f"/v1/artifacts/{artifact['id']}/content")
    assert refused(download, 503, "unavailable")["retryable"] is True
    # What needs no blob goes on: rounds can be read, and what a caller has already is still the same.
    etag = f'"sha256:{artifact["sha256"]}"'
    assert client.get(f"/v1/artifacts/{artifact['id']}/content", headers={"If-None-Match": etag}).status_code == 304
    assert client.get(f"/v1/jobs/{job_id}/rounds").status_code == 200
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["status"], ready.json()["blobs"]) == (200, "degraded", "away")


def test_a_download_of_many_pieces(client: TestClient, bench: Any, posted: Callable[..., dict[str, Any]]) -> None:
    """And a part of it, across the borders of pieces."""
    content = os.urandom(20 * MIB)
    posted_id = posted(artifacts=["model"])["id"]
    job = bench.claim()
    bench.store_round(job, 0, 0.9, 0.0, contents={"model": content})
    [artifact] = client.get(f"/v1/jobs/{posted_id}/artifacts").json()["data"]
    path = f"/v1/artifacts/{artifact['id']}/content"
    assert client.get(path).content == content
    part = client.get(path, headers={"Range": f"bytes={3 * MIB}-{13 * MIB}"})
    assert (part.status_code, part.content) == (206, content[3 * MIB : 13 * MIB + 1])
