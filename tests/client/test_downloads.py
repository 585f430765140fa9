"""Rounds, artifacts and their content: whole and checked, or not there at all."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from elsewhere_http import something_else
from espalier import ApiError, Artifact, Client, DigestMismatch, Job
from proxy import Proxy

Stored = Callable[[list[bytes]], Artifact]
MIB = bytes(1 << 20)


@pytest.fixture
def stored(client: Client, worker: Any, submit: Callable[..., Job]) -> Stored:
    """Store content as the model of a job's round 0; its artifact."""

    def store(content: list[bytes]) -> Artifact:
        job = submit()
        worker.store_round(worker.claim(job), 0, content)
        [artifact] = client.artifacts(job["id"])
        return artifact

    return store


@contextmanager
def replaced(path: Path, content: bytes) -> Iterator[None]:
    """What a failing disk does to a file of the service."""
    whole = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(whole)


def test_rounds_and_artifacts_come_in_order(client: Client, worker: Any, submit: Callable[..., Job]) -> None:
    job = submit()
    claimed = worker.claim(job)
    assert (client.rounds(job["id"]), client.artifacts(job["id"])) == ([], [])
    for position in range(3):
        worker.store_round(claimed, position, [b"weights of round %d" % position])
    rounds, artifacts = client.rounds(job["id"]), client.artifacts(job["id"])
    assert [round_["number"] for round_ in rounds] == [0, 1, 2]
    report = client.report(job["id"])
    assert (report["rounds"], report["job"]) == (rounds, client.job(job["id"]))
    assert [artifact["round"] for artifact in artifacts] == [0, 1, 2]
    assert [round_["artifacts"] for round_ in rounds] == [[artifact] for artifact in artifacts]
    assert artifacts[2] | {
        "object": "artifact",
        "job": job["id"],
        "kind": "model",
        "format": "safetensors",
        "filename": "model.safetensors",
        "size_bytes": 18,
        "sha256": sha256(b"weights of round 2").hexdigest(),
    } == artifacts[2]  # fmt: skip


def test_a_download_is_the_file(client: Client, stored: Stored, tmp_path: Path) -> None:
    artifact = stored([b"the weights"])
    path = tmp_path / "results" / "of today" / "model.safetensors"
    assert client.download(artifact, path) == path
    assert client.download(artifact, str(path)) == path, "again, over the one that is there"
    assert path.read_bytes() == b"the weights"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"the weightz", b"THE WEIGHTS"])
def test_a_wrong_digest_leaves_nothing(
    client: Client, worker: Any, stored: Stored, tmp_path: Path, content: bytes
) -> None:
    artifact = stored([b"the weights"])
    kept = tmp_path / "kept"
    kept.write_bytes(b"an older file")
    with replaced(worker.path(artifact["sha256"]), content):
        for path in (tmp_path / "new", kept):
            with pytest.raises(DigestMismatch, match=artifact["sha256"]) as caught:
                client.download(artifact, path)
            assert sha256(content).hexdigest() in str(caught.value)
    assert list(tmp_path.iterdir()) == [kept]
    assert kept.read_bytes() == b"an older file"
    assert client.download(artifact, kept).read_bytes() == b"the weights"


@pytest.mark.parametrize("content", [b"the wei", b"the weights and more", b""])
def test_a_file_that_changed_its_size_is_not_sent(
    client: Client, worker: Any, stored: Stored, tmp_path: Path, content: bytes
) -> None:
    artifact = stored([b"the weights"])
    with replaced(worker.path(artifact["sha256"]), content):
        with pytest.raises(ApiError) as caught:
            client.download(artifact, tmp_path / "new")
        assert (caught.value.status, caught.value.code) == (500, "internal_error")
    assert list(tmp_path.iterdir()) == []


def test_a_large_download_passes_through_little_memory(client: Client, stored: Stored, tmp_path: Path) -> None:
    artifact = stored([MIB] * 48)
    tracemalloc.start()
    try:
        client.download(artifact, tmp_path / "large")
        assert tracemalloc.get_traced_memory()[1] < 6 << 20
    finally:
        tracemalloc.stop()
    assert (tmp_path / "large").stat().st_size == 48 << 20


def test_a_download_goes_on_through_a_restart(api: Any, client: Client, stored: Stored, tmp_path: Path) -> None:
    artifact = stored([b"the weights"])
    api.kill()
    api.launch()
    assert client.download(artifact, tmp_path / "model").read_bytes() == b"the weights"


def test_what_the_service_does_not_have(client: Client, stored: Stored, tmp_path: Path) -> None:
    unknown: Any = stored([b"the weights"]) | {"id": "art_none"}
    with pytest.raises(ApiError) as caught:
        client.download(unknown, tmp_path / "model")
    assert (caught.value.status, caught.value.code) == (404, "not_found")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(client: Client, stored: Stored, tmp_path: Path) -> None:
    artifact = stored([b"the weights"])
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        client.download(artifact, tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_download_goes_on_where_it_was_cut(api: Any, stored: Stored, tmp_path: Path) -> None:
    content = [bytes([index]) * (1 << 20) for index in range(24)]
    artifact = stored(content)
    seen: list[int] = []
    cuts = 9 << 20, 17 << 20
    with (
        Proxy(api.fleet.settings.port, answers_cut_at=cuts) as proxy,
        Client(proxy.url, api.fleet.settings.api_key.get_secret_value()) as client,
    ):
        path = client.download(artifact, tmp_path / "model", progress=lambda done, _of: seen.append(done))
        assert path.read_bytes() == b"".join(content)
        assert proxy.answered_bytes < 34 << 20, "begun anew after each cut it would be 41 MiB"
    assert seen == sorted(seen)
    assert seen[-1] == 24 << 20


def test_a_file_that_became_another_is_taken_from_its_beginning(tmp_path: Path) -> None:
    """What holds the range back is If-Range: the second answer is 200, with all of it."""
    first = 200, {"Content-Length": "400000", "ETag": '"old"'}, bytes(300_000)
    content = b"the weights"
    with something_else(first, (200, {"ETag": '"new"'}, content)) as url, Client(url, "esp_k") as client:
        artifact: Any = {"id": "art_1", "sha256": sha256(content).hexdigest(), "size_bytes": len(content)}
        assert client.download(artifact, tmp_path / "model").read_bytes() == content
