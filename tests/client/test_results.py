"""Tables, plots, links and statements through the client."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from espalier import ApiError, Artifact, Client, Job, NotVerified, verify


@pytest.fixture
def artifact(client: Client, worker: Any, submit: Callable[..., Job]) -> Artifact:
    """The model of a job's round 1, `the weights`."""
    job = submit()
    claimed = worker.claim(job)
    for position, content in enumerate((b"before", b"the weights")):
        worker.store_round(claimed, position, [content])
    return client.artifacts(job["id"])[1]


def test_results(client: Client, artifact: Artifact, tmp_path: Path) -> None:
    job_id = artifact["job"]
    assert [row["round"] for row in client.pareto(job_id)["data"]] == [1]
    assert [row["round"] for row in client.pareto(job_id, rounds="all")["data"]] == [0, 1]
    svg = client.download_plot(job_id, tmp_path / "new" / "plot.svg", theme="dark")
    assert b"#0d1117" in svg.read_bytes()
    assert client.download_plot(job_id, str(tmp_path / "plot.png")).read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match=r"a plot is a \.svg or a \.png"):
        client.download_plot(job_id, tmp_path / "plot.pdf")
    with pytest.raises(ApiError) as caught:
        client.download_plot("job_none", tmp_path / "none.svg")
    assert caught.value.status == 404
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["plot.png", "plot.svg"]


def test_a_link_needs_no_client(client: Client, artifact: Artifact) -> None:
    link = client.link(artifact, expires_in_seconds=60)
    assert link["artifact"] == artifact["id"]
    with urllib.request.urlopen(link["url"], timeout=10) as response:
        assert response.read() == b"the weights"


def test_a_download_is_verified(client: Client, artifact: Artifact, tmp_path: Path) -> None:
    file = client.download(artifact, tmp_path / "model.safetensors")
    envelope, key = client.provenance(artifact), client.provenance_key()
    statement = verify(file, envelope, key)
    assert statement["subject"] == [{"name": "model.safetensors", "digest": {"sha256": artifact["sha256"]}}]
    file.write_bytes(b"other weights")
    with pytest.raises(NotVerified):
        verify(file, envelope, key)
