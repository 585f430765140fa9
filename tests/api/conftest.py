"""The app in this process on the real database, blobs and broker; rows as workers would leave them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient
from uploading import Uploading

from api.app import create_app
from store import intake, jobs
from store.blobs import BlobStore, refer
from store.database import Database
from store.jobs import NewArtifact
from store.keys import add_key
from store.settings import Settings
from store.tables import Dataset, Job, Model, Project

OTHER_KEY = "esp_a-key-of-another-project"


@pytest.fixture
def anonymous(settings: Settings, database: Database) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as client:
        yield client


@pytest.fixture
def client(anonymous: TestClient, settings: Settings) -> TestClient:
    """With the first project's key."""
    assert settings.api_key is not None
    anonymous.headers["Authorization"] = f"Bearer {settings.api_key.get_secret_value()}"
    return anonymous


@pytest.fixture
def other(database: Database) -> dict[str, str]:
    """Headers of another project."""
    with database.transaction() as session:
        session.add(Project(id="prj_other", name="other", created_at=1.0))
        session.flush()
        add_key(session, project_id="prj_other", name="k", scopes=["admin"], key=OTHER_KEY)
    return {"Authorization": f"Bearer {OTHER_KEY}"}


@pytest.fixture
def blob_kind(request: pytest.FixtureRequest) -> str:
    """disk, unless a test asks for s3."""
    return str(getattr(request, "param", "disk"))


@pytest.fixture
def up(client: TestClient) -> Uploading:
    return Uploading(client)


def model_report(**changes: Any) -> dict[str, Any]:
    """Of a network 64 -> 30 -> 10, as `pruning.intake.inspect_model` reports it."""
    layers = [
        {"name": "fc1", "shape": [30, 64], "num_weights": 1920, "num_units": 30, "prunable": ["weight", "unit"]},
        {"name": "fc2", "shape": [10, 30], "num_weights": 300, "num_units": 10, "prunable": ["weight"]},
    ]
    for layer, reason, group in zip(layers, (None, "it gives the outputs"), ("fc1", None), strict=True):
        layer |= {"type": "Linear", "reason": reason, "is_output": layer["name"] == "fc2", "group": group}
    return {
        "num_parameters": 2220,
        "num_parameters_total": 2260,
        "num_prunable": 2,
        "layers": layers,
        "output_layer": "fc2",
        "num_outputs": 10,
        "input_shape": [1, 8, 8],
        **changes,
    }


def dataset_report(*names: str, **changes: Any) -> dict[str, Any]:
    split = {
        "num_examples": 1000,
        "input_shape": [1, 8, 8],
        "input_dtype": "uint8",
        "num_classes": 10,
        "class_counts": [100] * 10,
        **changes,
    }
    return {"splits": dict.fromkeys(names or ("train", "validation"), split)}


def round_report(accuracy: float | None, **changes: Any) -> dict[str, Any]:
    """As a child reports it; None: an untrained entry."""
    measured = {} if accuracy is None else {"accuracy": accuracy, "loss": 1 - accuracy}
    return {
        "sparsity": {"target": 0.2, "actual": 0.2},
        "num_parameters": 2220,
        "num_nonzero": 1776,
        "num_parameters_total": 2260,
        "num_nonzero_total": 1816,
        "layers": [{"name": "fc1", "num_weights": 1920, "num_nonzero": 1536}],
        "metrics": {} if accuracy is None else {"train": measured, "validation": measured},
        "early_stopping": None if accuracy is None else {"step": 50, "metrics": measured},
        "size_bytes": {"dense": 9000, "sparse": 5000},
        "macs": {"dense": 2220, "effective": 1776},
        "latency_ms": {"p50": 0.1, "p95": 0.2, "conditions": {"threads": 1}},
        "seconds": {"prune": 0.1, "train": 1.0, "evaluate": 0.1},
        "steps": 100,
        **changes,
    }


class Bench:
    """What a worker does, without the numbers."""

    model_report, dataset_report = staticmethod(model_report), staticmethod(dataset_report)

    def __init__(self, database: Database, blobs: BlobStore, settings: Settings, project: str) -> None:
        self.database, self.blobs, self.settings, self.project = database, blobs, settings, project

    def model(
        self,
        report: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
        format: str = "safetensors",
    ) -> Model:
        """Ready, or invalid with `error`."""
        blob = self.blobs.put([b"weights"], 100)
        spec = {"architecture": "lenet_300_100", "input_shape": [1, 8, 8], "num_classes": 10}
        if format == "exported_program":
            spec = {}
        with self.database.transaction() as session:
            row = intake.add_model(session, project_id=self.project, name="m", format=format, spec=spec, blob=blob)
        self._validate(row, report or model_report(), error)
        return row

    def dataset(self, report: dict[str, Any] | None = None, error: dict[str, Any] | None = None) -> Dataset:
        """Ready, or invalid with `error`."""
        blob = self.blobs.put([b"examples"], 100)
        with self.database.transaction() as session:
            row = intake.add_dataset(session, project_id=self.project, name="d", format="npz", blob=blob)
        self._validate(row, report or dataset_report(), error)
        return row

    def _validate(self, row: Model | Dataset, report: dict[str, Any], error: dict[str, Any] | None) -> None:
        with self.database.transaction() as session:
            claimed = intake.claim(session, "worker", 60)
            assert claimed is not None
            assert claimed.id == row.id, "another row waits"
            if error is None:
                intake.accept(session, type(row), row.id, claimed.attempt, report)
            else:
                intake.refuse(session, type(row), row.id, claimed.attempt, error)

    def claim(self, pool: str | None = None) -> Job:
        with self.database.transaction() as session:
            job = jobs.claim(session, pool or self.settings.default_pool, "worker-1", 60)
        assert job is not None
        return job

    def store_round(
        self,
        job: Job,
        position: int,
        accuracy: float | None,
        sparsity: float,
        final: bool = False,
        contents: dict[str, bytes] | None = None,
        **changes: Any,
    ) -> None:
        files = {kind: f"{kind} {position}".encode() for kind in ("model", "masks", "sparse")} | (contents or {})
        kinds = {kind: self.blobs.put([content], len(content)) for kind, content in files.items()}
        with self.database.transaction() as session:
            for blob in kinds.values():
                refer(session, blob)
            jobs.record_round(
                session,
                job,
                position=position,
                number=None if final else position,
                sparsity=sparsity,
                report=round_report(accuracy, **changes),
                artifacts=[NewArtifact(k, "safetensors", f"{k}.safetensors", blob) for k, blob in kinds.items()],
                lease_seconds=60,
            )

    def complete(self, job: Job, selected_position: int) -> None:
        with self.database.transaction() as session:
            jobs.complete(session, job.id, job.attempt, selected_position, passed=True)


@pytest.fixture
def bench(database: Database, blobs: BlobStore, settings: Settings, project: str) -> Bench:
    return Bench(database, blobs, settings, project)


@pytest.fixture
def body(bench: Bench) -> dict[str, Any]:
    """Of a job that can run: ready model and dataset, 15 rounds."""
    return {
        "model": bench.model().id,
        "dataset": bench.dataset().id,
        "recipe": {"strategy": "lottery_ticket_reset"},
    }


Posted = Callable[..., dict[str, Any]]


@pytest.fixture
def posted(client: TestClient, body: dict[str, Any]) -> Posted:
    """Post a job on one ready model and dataset; its document."""

    def post(**changes: Any) -> dict[str, Any]:
        response = client.post("/v1/jobs", json={**body, **changes})
        assert response.status_code == 201, response.text
        job: dict[str, Any] = response.json()
        return job

    return post


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


Refused = Callable[..., dict[str, Any]]


@pytest.fixture
def refused() -> Refused:
    """refused(response, status, code, param): it is a whole problem of this code; the problem."""
    return _assert_problem


def _assert_problem(response: Any, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["code"] == code, problem
    assert problem["param"] == param, problem
    assert problem["status"] == status
    assert problem["type"] == f"urn:espalier:problem:{code}"
    assert problem["title"]
    assert problem["detail"]
    assert isinstance(problem["retryable"], bool)
    assert problem["request_id"] == response.headers["x-request-id"]
    if param is not None:
        assert problem["errors"][0]["param"] == param
    return problem
