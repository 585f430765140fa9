"""Resumable uploads: what counts, what is refused, what is there in the end; and a model made of one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient
from uploading import ON_BOTH_STORES, Uploading, content_of, digest_field, parts

from store import uploads
from store.blobs import open_blobs
from store.collection import collect, remove_discarded
from store.database import Database
from store.settings import Settings
from store.tables import Blob, Upload, UploadPart

Refused = Callable[..., dict[str, Any]]
DRAFT = "https://iana.org/assignments/http-problem-types#"
KIB = 1024


@pytest.fixture
def settings(settings: Settings, blob_kind: str, request: pytest.FixtureRequest) -> Settings:
    blob_url = str(request.getfixturevalue("s3_url")) if blob_kind == "s3" else None
    return settings.model_copy(update={"blob_url": blob_url, "max_upload_bytes": 1 << 20, "max_open_uploads": 3})


def safetensors(num_bytes: int) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [num_bytes], "data_offsets": [0, num_bytes]}}).encode()
    return len(header).to_bytes(8, "little") + header + os.urandom(num_bytes)


@ON_BOTH_STORES
def test_in_three_parts(up: Uploading, settings: Settings, database: Database) -> None:
    content = os.urandom(300 * KIB)
    begun = up.begin(content[: 100 * KIB], Upload_Length=str(len(content)), Repr_Digest=digest_field(content))
    assert begun.status_code == 201
    upload = begun.json()
    assert up.path == f"/v1/uploads/{upload['id']}"
    assert (upload["object"], upload["complete"], upload["sha256"]) == ("upload", False, None)
    assert (upload["offset_bytes"], upload["length_bytes"]) == (100 * KIB, len(content))
    assert begun.headers["upload-offset"] == str(100 * KIB)
    assert begun.headers["upload-limit"].startswith("max-size=1048576, max-age=8")

    middle = up.append(content[100 * KIB : 200 * KIB], 100 * KIB)
    assert (middle.status_code, middle.content) == (204, b"")
    assert (middle.headers["upload-complete"], middle.headers["upload-offset"]) == ("?0", str(200 * KIB))
    asked = up.client.head(up.path)
    assert (asked.status_code, asked.headers["upload-complete"]) == (204, "?0")
    assert (asked.headers["upload-offset"], asked.headers["upload-length"]) == (str(200 * KIB), str(len(content)))
    assert asked.headers["cache-control"] == "no-store"

    end = up.append(content[200 * KIB :], 200 * KIB, complete=True)
    assert (end.status_code, end.headers["upload-complete"]) == (200, "?1")
    assert end.json()["sha256"] == hashlib.sha256(content).hexdigest()
    assert up.client.get(up.path).json() == end.json()
    assert up.client.head(up.path).headers["upload-complete"] == "?1"
    assert content_of(settings, database, end.json()["sha256"]) == content
    blobs = open_blobs(settings)
    remove_discarded(database, blobs)
    assert parts(database) == []
    lying = [name for shard in range(256) for name in blobs.old_names(f"{shard:02x}", -60)]
    assert len(lying) == 1, "its parts are gone"


def test_all_at_once_or_nothing_at_all(up: Uploading, settings: Settings, database: Database) -> None:
    content = os.urandom(1000)
    whole = up.begin(content, complete=True, Content_Digest=digest_field(content))
    assert (whole.status_code, whole.headers["upload-complete"]) == (201, "?1")
    assert whole.json()["length_bytes"] == 1000
    assert content_of(settings, database, whole.json()["sha256"]) == content
    up.begin()
    assert (up.offset, parts(database)) == (0, [])
    empty = up.append(b"", 0, complete=True)
    assert empty.json()["sha256"] == hashlib.sha256(b"").hexdigest()


def test_a_wrong_offset_is_told_the_right_one(up: Uploading) -> None:
    up.begin(b"12345")
    for offset in (0, 4, 6):
        response = up.append(b"67890", offset)
        assert response.status_code == 409
        assert response.headers["upload-offset"] == "5"
        problem = response.json()
        assert problem["type"] == DRAFT + "mismatching-upload-offset"
        assert (problem["code"], problem["param"]) == ("mismatching_upload_offset", "header:upload-offset")
        assert (problem["expected-offset"], problem["provided-offset"]) == (5, offset)
    assert up.append(b"67890", 5, complete=True).json()["sha256"] == hashlib.sha256(b"1234567890").hexdigest()


def test_content_that_is_not_what_its_digest_says_does_not_count(
    up: Uploading, refused: Refused, database: Database
) -> None:
    up.begin(b"12345")
    response = up.append(b"6789X", 5, complete=True, Content_Digest=digest_field(b"67890"))
    refused(response, 422, "digest_mismatch", "header:content-digest")
    assert up.offset == 5
    assert up.append(b"67890", 5, complete=True, Content_Digest=digest_field(b"67890")).status_code == 200
    refused(up.begin(b"1", Content_Digest=digest_field(b"2")), 422, "digest_mismatch", "header:content-digest")
    refused(up.begin(b"1", Content_Digest="sha-256=:abc:"), 422, "invalid_request", "header:content-digest")
    assert up.begin(b"1", Content_Digest="md5=:abc:, sha-512=:abc:").status_code == 201, "they are passed over"
    with database.reading() as session:
        assert session.query(Upload).count() == 2, "of what was refused nothing stays"


@ON_BOTH_STORES
def test_a_whole_that_is_not_what_its_digest_says_is_gone(up: Uploading, refused: Refused, client: TestClient) -> None:
    up.begin(b"12345", Repr_Digest=digest_field(b"1234567890"))
    response = up.append(b"6789X", 5, complete=True)
    problem = refused(response, 422, "digest_mismatch", "header:repr-digest")
    assert hashlib.sha256(b"123456789X").hexdigest() in problem["detail"]
    assert response.headers["upload-complete"] == "?1", "to resume would not help"
    refused(client.get(up.path), 404, "not_found")


def test_lengths_must_agree(up: Uploading, client: TestClient, subtests: pytest.Subtests) -> None:
    up.begin(b"12345", Upload_Length="10")
    for answer in (
        up.append(b"678", 5, complete=True),
        up.append(b"678", 5, Upload_Length="11"),
        up.append(iter([b"678"]), 5, complete=True),  # its length comes out at the end; what came counts
        up.begin(b"123", complete=True, Upload_Length="10"),
    ):
        assert answer.status_code == 400
        problem = answer.json()
        assert (problem["code"], problem["type"]) == (
            "inconsistent_upload_length",
            DRAFT + "inconsistent-upload-length",
        )
    assert up.append(b"90", 8, complete=True).status_code == 200
    more = up.append(b"1", 10)
    assert (more.status_code, more.json()["code"]) == (400, "inconsistent_upload_length")
    again = up.append(b"", 10, complete=True)
    assert (again.status_code, again.json()["type"]) == (400, DRAFT + "completed-upload")


def test_too_much(up: Uploading, refused: Refused, client: TestClient, settings: Settings) -> None:
    most = settings.max_upload_bytes
    for answer in (up.begin(Upload_Length=str(most + 1)), up.begin(bytes(most + 1)), up.begin(iter([bytes(most + 1)]))):
        refused(answer, 413, "too_large", "")
        assert answer.headers["upload-limit"] == f"max-size={most}"
    up.begin(b"12345", Upload_Length="10")
    refused(up.append(b"678901", 5), 413, "too_large", "")
    assert up.offset == 5, "by its head alone: nothing of it was read"
    refused(up.append(iter([b"6789", b"01"]), 5), 413, "too_large", "")
    refused(client.get(up.path), 404, "not_found")


def test_what_the_heads_must_say(up: Uploading, client: TestClient, refused: Refused) -> None:
    for value in ({}, {"Upload-Complete": "true"}, {"Upload-Complete": "?2"}):
        refused(client.post("/v1/uploads", headers=value), 422, "invalid_request", "header:upload-complete")
    up.begin(b"1")
    partial = {"Content-Type": "application/partial-upload", "Upload-Complete": "?0"}
    refused(client.patch(up.path, headers=partial), 422, "invalid_request", "header:upload-offset")
    other = partial | {"Content-Type": "application/octet-stream", "Upload-Offset": "1"}
    response = client.patch(up.path, content=b"2", headers=other)
    refused(response, 415, "unsupported_media_type", "header:content-type")
    assert response.headers["accept-patch"] == "application/partial-upload"
    for header, value in (("Content-Encoding", "gzip"), ("Content-Type", "multipart/form-data; boundary=x")):
        response = client.post("/v1/uploads", headers={"Upload-Complete": "?1", header: value}, content=b"1")
        refused(response, 415, "unsupported_media_type", f"header:{header.lower()}")
    options = client.options("/v1/uploads")
    assert options.headers["accept-patch"] == "application/partial-upload"
    assert options.headers["upload-limit"] == "max-size=1048576"
    assert up.offset == 1


def test_known_content_need_not_be_sent(
    up: Uploading, client: TestClient, other: dict[str, str], database: Database
) -> None:
    content = safetensors(1000)
    model = client.post("/v1/models?format=safetensors&architecture=lenet5", content=content).json()
    headers = {"Upload_Length": str(len(content)), "Repr_Digest": digest_field(content)}
    known = up.begin(**headers)
    assert (known.status_code, known.headers["upload-complete"]) == (201, "?1")
    assert known.json()["sha256"] == model["sha256"]
    assert client.post(f"/v1/datasets?format=safetensors&upload={known.json()['id']}").status_code == 201

    client.headers |= other
    unknown = up.begin(**headers)
    assert (unknown.headers["upload-complete"], unknown.json()["sha256"]) == ("?0", None), "it is another project's"
    client.headers["Authorization"] = "Bearer esp_a-key-for-tests-only"
    assert up.begin(**headers | {"Upload_Length": "7"}).headers["upload-complete"] == "?0"
    with database.transaction() as session:
        session.query(Blob).update({"suspect": True})
    assert up.begin(**headers).headers["upload-complete"] == "?0", "to send it mends the copy"


def test_a_model_and_a_dataset_of_one_upload(
    up: Uploading, client: TestClient, refused: Refused, other: dict[str, str]
) -> None:
    content = safetensors(1000)
    model_path = "/v1/models?name=n&format=safetensors&architecture=lenet5&upload="
    upload_id = up.begin(content[:500]).json()["id"]
    refused(client.post(f"{model_path}{upload_id}"), 409, "incomplete_upload", "query:upload")
    up.append(content[500:], 500, complete=True)
    model = client.post(f"{model_path}{upload_id}")
    assert model.status_code == 201
    assert (model.json()["sha256"], model.json()["size_bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))
    assert client.post(f"/v1/datasets?format=safetensors&upload={upload_id}").status_code == 201, "it serves again"
    refused(client.post(f"/v1/datasets?format=npz&upload={upload_id}"), 422, "invalid_content", "query:format")
    refused(client.post(f"{model_path}{upload_id}", content=b"x"), 422, "invalid_request", "")
    seeded = f"/v1/models?format=architecture&architecture=lenet5&upload={upload_id}"
    refused(client.post(seeded), 422, "invalid_request", "query:upload")
    refused(client.post(f"{model_path}{upload_id}", headers=other), 422, "not_found", "query:upload")
    assert client.delete(up.path).status_code == 204
    refused(client.post(f"{model_path}{upload_id}"), 422, "not_found", "query:upload")
    assert client.get(f"/v1/models/{model.json()['id']}").json()["sha256"] == model.json()["sha256"]


def test_open_uploads_are_counted(up: Uploading, refused: Refused, client: TestClient, other: dict[str, str]) -> None:
    for _ in range(3):
        up.begin(b"1")
    answer = up.begin(b"1")
    refused(answer, 429, "too_many_uploads")
    assert answer.headers["retry-after"] == "60"
    assert client.post("/v1/uploads", headers={"Upload-Complete": "?0"} | other).status_code == 201
    up.append(b"", 1, complete=True)
    assert up.begin(b"1").status_code == 201


@ON_BOTH_STORES
def test_an_abandoned_one_goes_with_its_parts(
    up: Uploading, refused: Refused, client: TestClient, database: Database, settings: Settings
) -> None:
    up.begin(b"12345")
    kept = Uploading(client)
    kept.begin(b"123")
    with database.transaction() as session:
        assert uploads.expire(session) == 0
        session.query(Upload).where(Upload.id == up.path.rpartition("/")[2]).update({"expires_at": 1.0})
    refused(client.get(up.path), 404, "not_found")
    with database.transaction() as session:
        assert uploads.expire(session) == 1
    blobs = open_blobs(settings)
    remove_discarded(database, blobs)
    assert kept.append(b"45", 3, complete=True).json()["sha256"] == hashlib.sha256(b"12345").hexdigest()


@ON_BOTH_STORES
def test_the_collector_leaves_parts_alone(up: Uploading, settings: Settings, database: Database) -> None:
    """Even one for which all is old."""
    up.begin(b"12345")
    hasty = open_blobs(settings.model_copy(update={"blob_grace_seconds": 1e-6}))
    with database.reading() as session:
        [name] = session.scalars(select(UploadPart.name))
    collect(database, hasty, name[:2])
    assert up.append(b"67890", 5, complete=True).json()["sha256"] == hashlib.sha256(b"1234567890").hexdigest()
