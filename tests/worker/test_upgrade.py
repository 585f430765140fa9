"""A database of the first schema, with jobs that wait, jobs that ended and one that ran, is brought up to date."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

from alembic import command
from fleet import SMALL, Fleet, digits_npz
from sqlalchemy import MetaData, create_engine, inspect, select

import migrations
from pruning.formats.architectures import build
from pruning.formats.dataset_report import describe
from pruning.formats.datasets import read_dataset
from pruning.formats.results import write_state
from pruning.intake import inspect_model
from pruning.recipe import Recipe
from store import jobs, labels
from store.blobs import located
from store.database import Database
from store.disk_blobs import DiskBlobs
from store.settings import Settings
from store.tables import Artifact, Job

NewDatabase = Callable[..., AbstractContextManager[str]]
FIRST = "0001"
SPEC = {"architecture": "lenet_300_100", "input_shape": [1, 8, 8], "num_classes": 10, "seed": 0}


def rows_of_the_first_schema(blobs: DiskBlobs, folder: Path, pool: str) -> dict[str, list[dict[str, Any]]]:
    """In the order in which they refer to each other. By name, as that schema has them."""
    at, network = time.time() - 1000, build(**SPEC)
    write_state(folder / "model", network.state_dict())
    (folder / "dataset").write_bytes(digits_npz())
    model, dataset = ([(folder / name).read_bytes()] for name in ("model", "dataset"))
    stored = {"model": blobs.put(model, 1 << 30), "dataset": blobs.put(dataset, 1 << 30)}
    for blob in stored.values():  # a file was called by its digest alone
        blobs.path(blob.name).rename(blobs.path(blob.digest))
    recipe = Recipe.model_validate({**SMALL, "stop": {"rounds": 1}}).to_json()
    held = {"attempt": 0, "failures": 0, "worker": None, "lease_until": None}
    intake = {**held, "project_id": "prj_1", "status": "ready", "name": "x", "created_at": at}
    job = {
        **held, "project_id": "prj_1", "model_id": "mdl_1", "dataset_id": "ds_1", "recipe": recipe, "gates": [],
        "select": "smallest_passing", "artifacts": ["model", "masks"], "pool": pool, "priority": 0, "max_failures": 3,
        "options": {"metadata": {"sha": "1a2b"}}, "status": "queued", "planned_rounds": 1, "last_position": -1,
        "version": 1, "num_events": 1, "created_at": at, "queued_at": at,
    }  # fmt: skip
    ended = {"status": "succeeded", "conclusion": "passed", "selected_position": 0, "finished_at": at}
    silent = {"status": "running", "attempt": 1, "worker": "w", "lease_until": at, "num_events": 2, "started_at": at}
    report = {"metrics": {"validation": {"accuracy": 0.5, "loss": 1.0}}}
    weights = stored["model"].digest
    return {
        "projects": [{"id": "prj_1", "name": "default", "created_at": at}],
        "api_keys": [{"id": "key_1", "project_id": "prj_1", "name": "k", "digest": "0" * 64, "created_at": at}],
        "blobs": [
            {"digest": b.digest, "size_bytes": b.size_bytes, "touched_at": at, "deleting": False}
            for b in stored.values()
        ],
        "models": [
            {**intake, "id": "mdl_1", "format": "architecture", "spec": SPEC, "blob_digest": weights}
            | {"report": inspect_model(network, network.input_shape)}
        ],
        "datasets": [
            {**intake, "id": "ds_1", "format": "npz", "blob_digest": stored["dataset"].digest}
            | {"report": describe(read_dataset(folder / "dataset", "npz"))}
        ],
        "jobs": [
            {**job, "id": "job_ended", **ended, "last_position": 0, "attempt": 1},
            {**job, "id": "job_silent", **silent},
            {**job, "id": "job_waiting"},
        ],
        "attempts": [
            {"job_id": "job_ended", "number": 1, "worker": "w", "started_at": at, "ended_at": at, "reason": "x"},
            {"job_id": "job_silent", "number": 1, "worker": "w", "started_at": at},
        ],
        "rounds": [
            {"job_id": "job_ended", "position": 0, "number": 0, "attempt": 1, "sparsity": 0.0, "report": report}
            | {"created_at": at}
        ],
        "artifacts": [
            {"id": "art_1", "project_id": "prj_1", "job_id": "job_ended", "position": 0, "kind": "model"}
            | {"format": "safetensors", "filename": "m", "size_bytes": stored["model"].size_bytes}
            | {"blob_digest": weights, "created_at": at}
        ],
        "events": [
            {"job_id": job_id, "sequence": sequence, "at": at, "type": type_, "data": {}}
            for job_id, types in (
                ("job_ended", ["job.queued"]), ("job_silent", ["job.queued", "job.running"]),
                ("job_waiting", ["job.queued"]),
            )
            for sequence, type_ in enumerate(types, 1)
        ],
    }  # fmt: skip


def insert(url: str, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Into the tables that are there."""
    engine = create_engine(url)
    tables = MetaData()
    tables.reflect(engine)
    with engine.begin() as connection:
        for name, given in rows.items():
            for row in given:
                connection.execute(tables.tables[name].insert().values(row))
    engine.dispose()


def test_jobs_that_waited_run_after_an_upgrade_and_results_stay(
    settings: Settings, blobs: DiskBlobs, new_database: NewDatabase, tmp_path: Path
) -> None:
    (tmp_path / "old").mkdir()
    with new_database(tmp_path / "old", migrated=False) as url:
        command.upgrade(migrations.config(url), FIRST)
        rows = rows_of_the_first_schema(blobs, tmp_path, settings.worker_pool)
        insert(url, rows)

        environment = {
            "ESPALIER_DATABASE_URL": url,
            "ESPALIER_DATA_DIR": str(settings.data_dir),
            "PATH": "/usr/bin:/bin",
        }
        done = subprocess.run([sys.executable, "-m", "migrations"], env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, ""), "and no other key is made"

        with closing(Database(url)) as database:
            found = inspect(database.engine)
            assert {name for name in rows if name in found.get_table_names()} == rows.keys()
            with database.reading() as session:
                assert session.get_one(Job, "job_ended").conclusion == "passed"
                assert session.get_one(Job, "job_waiting").options == {"metadata": {"sha": "1a2b"}}
                labeled = session.scalars(select(Job.id).where(labels.has("prj_1", "sha", "1a2b"))).all()
                assert "job_waiting" in labeled
                [round_] = jobs.stored_rounds(session, "job_ended")
                assert round_.report == rows["rounds"][0]["report"]
                artifact = session.get_one(Artifact, "art_1")
                copy = located(session, artifact.blob_digest)
            assert len(b"".join(blobs.read(copy))) == artifact.size_bytes

            fleet = Fleet(settings.model_copy(update={"database_url": url}), database, blobs, "prj_1")
            try:
                fleet.start("worker")
                fleet.start("sweeper")
                for job_id in ("job_waiting", "job_silent"):
                    with database.reading() as session:
                        ended = fleet.finished(session.get_one(Job, job_id))
                    assert (ended.status, ended.conclusion, ended.last_position) == ("succeeded", "passed", 1)
                assert fleet.digests(ended)[2:] != []
            finally:
                fleet.stop()
