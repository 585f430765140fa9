"""Jobs whose blobs lie in a bucket: the same rounds, to the bit; while the bucket is away they wait, and end well."""

from __future__ import annotations

import hashlib
import signal
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

import obstore
import pytest
from fleet import SMALL, Fleet
from obstore.store import S3Store
from s3 import S3Server, running_s3

from chaos.processes import descendants_of
from store import jobs
from store.blobs import BlobStore, open_blobs
from store.settings import Settings

pytestmark = pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)  # as in production


@pytest.fixture
def settings(settings: Settings, s3: S3Server) -> Settings:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return settings.model_copy(update={"blob_url": "s3://bucket/prefix", "port": port})


@pytest.fixture
def blobs(settings: Settings) -> BlobStore:
    return open_blobs(settings)


def get(fleet: Fleet, path: str) -> bytes:
    key = fleet.settings.api_key
    assert key is not None
    request = urllib.request.Request(
        f"http://127.0.0.1:{fleet.settings.port}{path}", headers={"Authorization": f"Bearer {key.get_secret_value()}"}
    )
    for _ in range(100):
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return bytes(reply.read())
        except urllib.error.URLError:
            time.sleep(0.1)
    raise TimeoutError(fleet.log("api"))


def test_a_job_from_bucket_to_download(fleet: Fleet, s3: S3Server) -> None:
    worker, _api = fleet.start("worker"), fleet.start("api")
    model, dataset = fleet.ready(fleet.add_model()), fleet.ready(fleet.add_dataset())
    assert (model.status, dataset.status) == ("ready", "ready")
    job = fleet.submit(model, dataset)
    fleet.wait(lambda: fleet._fetch(job), lambda now: now.last_position >= 0)
    secret = s3.environment["AWS_SECRET_ACCESS_KEY"].encode()
    assert secret in Path(f"/proc/{worker.pid}/environ").read_bytes()
    children = descendants_of(worker.pid)
    assert children
    for child in children:
        environment = Path(f"/proc/{child}/environ").read_bytes()
        assert b"AWS_" not in environment
        assert secret not in environment
    ended = fleet.finished(job)
    assert (ended.status, ended.conclusion, ended.failures) == ("succeeded", "passed", 0)
    with fleet.database.reading() as session:
        artifacts = [a for position in range(4) for a in jobs.stored_artifacts(session, job.id, position)]
    offered = [artifact for artifact in artifacts if artifact.kind != "sparse"]
    assert len(offered) == 12
    for artifact in offered:
        content = get(fleet, f"/v1/artifacts/{artifact.id}/content")
        assert hashlib.sha256(content).hexdigest() == artifact.blob_digest
    assert not fleet.settings.blob_dir.exists()
    assert list((fleet.settings.data_dir / "incoming").iterdir()) == []


def test_a_bucket_that_hangs_for_longer_than_a_lease_costs_no_attempt(fleet: Fleet, s3: S3Server) -> None:
    fleet.start("worker")
    fleet.start("sweeper")
    model, dataset = fleet.given(fleet.add_model()), fleet.given(fleet.add_dataset())
    s3.process.send_signal(signal.SIGSTOP)
    job = fleet.submit(model, dataset)
    fleet.wait(lambda: fleet._fetch(job), lambda now: now.status == "running")
    time.sleep(fleet.settings.lease_seconds + 2)
    s3.process.send_signal(signal.SIGCONT)
    ended = fleet.finished(job)
    assert (ended.conclusion, ended.attempt, ended.failures) == ("passed", 1, 0)


def test_a_round_outlives_a_bucket_that_is_away(fleet: Fleet, s3: S3Server) -> None:
    fleet.start("worker")
    fleet.start("sweeper")
    model, dataset = fleet.given(fleet.add_model()), fleet.given(fleet.add_dataset())
    job = fleet.submit(model, dataset, {**SMALL, "training": {**SMALL["training"], "steps": 1500}})
    fleet.wait(lambda: fleet._fetch(job), lambda now: now.progress is not None)
    s3.process.kill()
    s3.process.wait()
    fleet.wait(lambda: fleet.log("worker"), lambda log: "does not answer" in log and "trying again" in log)
    with running_s3(int(s3.url.rpartition(":")[2])) as again:
        again.make_bucket("bucket")
        ended = fleet.finished(job)
    assert (ended.conclusion, ended.attempt, ended.failures) == ("passed", 1, 0)


def test_damaged_content_is_named(fleet: Fleet, s3: S3Server) -> None:
    fleet.start("worker")
    dataset = fleet.add_dataset()
    bucket = S3Store("bucket", prefix="prefix", client_options={"allow_http": True})
    digest = dataset.blob_digest
    obstore.put(bucket, f"{digest[:2]}/{fleet.located(digest).name}", b"something else")
    invalid = fleet.ready(dataset)
    assert invalid.status == "invalid"
    assert invalid.error["retryable"] is True
    assert f"blob {digest} is damaged" in invalid.error["message"]
