"""The API as a process of its own, as a user meets it; the tests play the worker behind it."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from espalier import Client, Job
from fleet import Fleet
from pydantic import SecretStr

import migrations
import store.tables
from store import intake, jobs
from store.blobs import open_blobs, refer
from store.database import Database
from store.disk_blobs import DiskBlobs
from store.jobs import NewArtifact
from store.keys import caller_of, ensure_first_key
from store.settings import Settings

API_KEY = "esp_a-key-for-the-clients-tests"
SAFETENSORS = b"\x02\x00\x00\x00\x00\x00\x00\x00{}"
"""A file that passes the API's look at its head; the whole of it nobody reads here."""

LAYER = {"name": "fc1", "shape": [10, 64], "num_weights": 640, "num_units": 10, "prunable": ["weight"], "group": None}
REPORTS: dict[str, dict[str, Any]] = {
    "Model": {
        "num_parameters": 640,
        "num_parameters_total": 650,
        "num_prunable": 1,
        "num_outputs": 10,
        "layers": [LAYER | {"is_output": True, "reason": None}],
    },
    "Dataset": {"splits": {"train": {"num_examples": 1000, "input_shape": [1, 8, 8], "num_classes": 10}}},
}


class Api:
    """The server's process: always on the same port, with the same data."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.url = fleet, f"http://{fleet.settings.host}:{fleet.settings.port}"

    def launch(self) -> None:
        """Without waiting until it answers."""
        self._process = self.fleet.start("api")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def wait_until_ready(self) -> None:
        for _ in range(1200):
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=5):
                    return
            except (urllib.error.URLError, ConnectionError):
                assert self._process.poll() is None, self.fleet.log("api")
                time.sleep(0.05)
        raise TimeoutError(self.fleet.log("api"))


class Worker:
    """What a worker does, without the numbers. In a `with`, it validates whatever comes in, in a thread of its own:
    all is ready, but for what is called as a key of `refused`."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.refused: dict[str, str] = {}
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._validate_all)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._leaving.set()
        self._thread.join()

    def _validate_all(self) -> None:
        while not self._leaving.wait(0.02):
            with self.fleet.database.transaction() as session:
                row = intake.claim(session, "worker", 60)
                if row is None:
                    continue
                if row.name in self.refused:
                    error = {"code": "invalid_content", "message": self.refused[row.name], "retryable": False}
                    intake.refuse(session, type(row), row.id, row.attempt, error)
                else:
                    intake.accept(session, type(row), row.id, row.attempt, REPORTS[type(row).__name__])

    def path(self, digest: str) -> Path:
        """Of the file that holds it."""
        blobs = self.fleet.blobs
        assert isinstance(blobs, DiskBlobs)
        return blobs.path(self.fleet.located(digest).name)

    def claim(self, job: Job) -> store.tables.Job:
        with self.fleet.database.transaction() as session:
            claimed = jobs.claim(session, job["pool"], "worker", 60)
        assert claimed is not None
        assert claimed.id == job["id"]
        return claimed

    def store_round(self, job: store.tables.Job, position: int, content: Iterable[bytes]) -> None:
        """With one artifact, its model."""
        blob = self.fleet.blobs.put(content, 1 << 30)
        with self.fleet.database.transaction() as session:
            refer(session, blob)
            jobs.record_round(
                session,
                job,
                position=position,
                number=position,
                sparsity=0.2 * position,
                report={
                    "metrics": {"validation": {"accuracy": 0.9, "loss": 0.3}},
                    "sparsity": {"target": 0.2 * position, "actual": 0.2 * position},
                },
                artifacts=[NewArtifact("model", "safetensors", "model.safetensors", blob)],
                lease_seconds=60,
            )

    def complete(self, job: store.tables.Job, passed: bool = True) -> None:
        with self.fleet.database.transaction() as session:
            jobs.complete(session, job.id, job.attempt, 0, passed=passed)

    def fail(self, job: store.tables.Job, code: str, message: str) -> None:
        with self.fleet.database.transaction() as session:
            jobs.fail(session, job.id, job.attempt, {"code": code, "message": message, "retryable": False})


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory, broker_url: str) -> Iterator[Api]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data_dir = tmp_path_factory.mktemp("client")
    settings = Settings(data_dir=data_dir, broker_url=broker_url, api_key=SecretStr(API_KEY), port=port)
    migrations.upgrade(settings.database)
    database = Database(settings.database)
    with database.transaction() as session:
        ensure_first_key(session, API_KEY)
        caller = caller_of(session, API_KEY)
    assert caller is not None
    api = Api(Fleet(settings, database, open_blobs(settings), caller.project_id))
    try:
        api.launch()
        api.wait_until_ready()
        yield api
    finally:
        api.fleet.stop()
        database.close()


@pytest.fixture
def client(api: Api) -> Iterator[Client]:
    with Client(api.url, API_KEY, patience_seconds=60) as client:
        yield client


@pytest.fixture
def worker(api: Api) -> Iterator[Worker]:
    with Worker(api.fleet) as worker:
        yield worker


@pytest.fixture(scope="session")
def references(api: Api) -> dict[str, str]:
    """A ready model and a ready dataset."""
    with Worker(api.fleet), Client(api.url, API_KEY) as client:
        model = client.upload_model(SAFETENSORS, architecture="lenet_300_100")
        dataset = client.upload_dataset(b"PK\x03\x04", name="digits")
    return {"model": model["id"], "dataset": dataset["id"]}


Submit = Callable[..., Job]


@pytest.fixture
def submit(client: Client, references: dict[str, str]) -> Submit:
    """Post a job, into a pool of its own, so that a test's worker claims no other test's."""

    def post(**changes: Any) -> Job:
        pool = f"pool-{secrets.token_hex(8)}"
        recipe = {"strategy": "lottery_ticket_reset", "stop": {"rounds": 2}}
        return client.create_job(**{**references, "recipe": recipe, "pool": pool, **changes})

    return post


Later = Callable[..., None]


@pytest.fixture
def later() -> Iterator[Later]:
    """later(seconds, do, *args): meanwhile the test waits for something else. All is done before the test ends."""
    timers = []

    def start(seconds: float, do: Callable[..., object], *args: object) -> None:
        timers.append(threading.Timer(seconds, do, args))
        timers[-1].start()

    yield start
    for timer in timers:
        timer.join()


class Command:
    """`espalier ...` as a process of its own, as a shell starts it: no configuration but what is given."""

    def __init__(self, python: str, api: Api, home: Path) -> None:
        self.home, self._python = home, python
        ours = "ESPALIER_", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "TTY_", "TERM"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self.environment = {
            **kept, "ESPALIER_URL": api.url, "ESPALIER_API_KEY": API_KEY, "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"), "PYTHONUNBUFFERED": "1",
        }  # fmt: skip

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(
            [self._python, "-m", "espalier", *arguments], env=self.environment, cwd=self.home, text=True, **options
        )

    def __call__(self, *arguments: str, **changes: str | None) -> subprocess.CompletedProcess[str]:
        """`changes` are of environment variables; None takes one out."""
        environment = {name: value for name, value in {**self.environment, **changes}.items() if value is not None}
        return subprocess.run(
            [self._python, "-m", "espalier", *arguments],
            env=environment, cwd=self.home, text=True, capture_output=True, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip


@pytest.fixture
def espalier(python: str, api: Api, tmp_path: Path) -> Command:
    return Command(python, api, tmp_path)
