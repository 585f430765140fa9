"""Real workers and sweepers as processes, to be killed; and jobs for them, made of digits and a small network."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espalier import export_model
from sqlalchemy import select
from torch import Tensor, nn

from chaos.processes import descendants_of
from chaos.recipes import digits_npz
from embedded.serve import COMMANDS
from pruning.formats.architectures import build
from pruning.formats.dataset_report import describe
from pruning.formats.datasets import read_dataset
from pruning.formats.models import read_model
from pruning.formats.results import write_state
from pruning.intake import inspect_model
from pruning.recipe import Recipe
from store import intake, jobs
from store.blobs import BlobStore, StoredBlob, located
from store.database import Database
from store.queue import INTAKE, Bell
from store.settings import Settings
from store.tables import Artifact, Dataset, IntakeStatus, Job, JobStatus, Model

SMALL = {
    "strategy": "lottery_ticket_reset",
    "stop": {"rounds": 3},
    "training": {"steps": 150, "evaluate_every_steps": 50, "preprocessing": {"scale": 0.0625}},
}


@dataclass
class Fleet:
    settings: Settings
    database: Database
    blobs: BlobStore
    project: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, name: str) -> subprocess.Popen[bytes]:
        places = {"host": "127.0.0.1", "port": self.settings.port, "pool": self.settings.worker_pool}
        environment = {
            f"ESPALIER_{key.upper()}": value.get_secret_value() if hasattr(value, "get_secret_value") else str(value)
            for key, value in self.settings
            if value is not None
        }
        with (self.settings.data_dir / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *(part.format(**places) for part in COMMANDS[name])],
                env={**os.environ, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def stop(self) -> None:
        for process in self.processes:
            for child in descendants_of(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            process.kill()
            process.wait()

    def log(self, name: str) -> str:
        return (self.settings.data_dir / f"{name}.log").read_text()

    def add_model(self, **spec: Any) -> Model:
        spec = {"architecture": "lenet_300_100", "input_shape": [1, 8, 8], "num_classes": 10, "seed": 0, **spec}
        with self.database.transaction() as session:
            return intake.add_model(
                session, project_id=self.project, name="m", format="architecture", spec=spec, blob=None
            )

    def add_program(self, module: nn.Module, example: Tensor) -> Model:
        """As the client exports it."""
        path = self.settings.data_dir / "module.pt2"
        blob = self.blobs.put([export_model(module, example, path).read_bytes()], 1 << 30)
        with self.database.transaction() as session:
            return intake.add_model(
                session, project_id=self.project, name="m", format="exported_program", spec={}, blob=blob
            )

    def add_dataset(self, content: bytes | None = None, format: str = "npz") -> Dataset:
        blob = self.blobs.put([content if content is not None else digits_npz()], 1 << 30)
        with self.database.transaction() as session:
            return intake.add_dataset(session, project_id=self.project, name="d", format=format, blob=blob)

    def ready(self, row: Model | Dataset) -> Any:
        """Ring, wait until it is validated; ready or invalid."""
        self.ring(INTAKE)
        return self.wait(lambda: self._fetch(row), lambda now: now.status != IntakeStatus.VALIDATING)

    def given(self, row: Model | Dataset) -> Any:
        """Ready, validated in this process as a worker's child would: for tests of what comes after, which would
        otherwise start a process each."""
        with self.database.transaction() as session:
            claimed = intake.claim(session, "tests", 60)
        if claimed is None or claimed.id != row.id:
            return self.ready(row)  # a sweeper rang, and a worker was sooner
        made = None
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "file"
            if claimed.blob_digest is not None:
                self.blobs.fetch(self.located(claimed.blob_digest), file)
            if isinstance(claimed, Dataset):
                report = describe(read_dataset(file, claimed.format))
            elif claimed.format == "architecture":
                network = build(**claimed.spec)
                report = inspect_model(network, network.input_shape)
                write_state(file, network.state_dict())
                made = self.blobs.put([file.read_bytes()], 1 << 30)
            else:
                model = read_model(file, claimed.format, claimed.spec)
                report = inspect_model(model, model.input_shape)
        with self.database.transaction() as session:
            intake.accept(session, type(claimed), claimed.id, claimed.attempt, report, made)
        return self._fetch(row)

    def located(self, digest: str) -> StoredBlob:
        with self.database.reading() as session:
            return located(session, digest)

    def submit(self, model: Model, dataset: Dataset, recipe: dict[str, Any] = SMALL, **columns: Any) -> Job:
        """Computed, whatever there is: most tests compare what two jobs computed."""
        full = Recipe.model_validate(recipe).to_json()
        defaults = {"gates": [], "select": "smallest_passing", "artifacts": ["model", "masks", "ticket"]}
        with self.database.transaction() as session:
            job = jobs.submit(
                session,
                **defaults
                | {"project_id": self.project, "model_id": model.id, "dataset_id": dataset.id, "recipe": full}
                | {
                    "pool": self.settings.worker_pool,
                    "options": {"cache": "off"},
                    "planned_rounds": full["stop"]["rounds"] or 0,
                }
                | columns,
            )
        self.ring()
        return job

    def ring(self, queue: str | None = None) -> None:
        """Left out: the pool's."""
        bell = Bell(self.settings.broker_url)
        bell.ring(queue or self.settings.worker_pool)
        bell.close()

    def finished(self, job: Job, seconds: float = 60) -> Job:
        return self.wait(lambda: self._fetch(job), lambda now: JobStatus(now.status).is_terminal, seconds)

    def digests(self, job: Job) -> list[tuple[int, str, str]]:
        """(position, kind, digest) of all that a job stored, but for the program: torch marks each file it writes with
        a number of its own, so that equal programs differ."""
        with self.database.reading() as session:
            rows = session.scalars(select(Artifact).where(Artifact.job_id == job.id, Artifact.kind != "program"))
            return sorted((a.position, a.kind, a.blob_digest) for a in rows)

    def wait(self, look: Callable[[], Any], until: Callable[[Any], bool], seconds: float = 60) -> Any:
        deadline = time.monotonic() + seconds
        while not until(seen := look()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{seen!r} after {seconds} s; worker's log:\n{self.log('worker')[-3000:]}")
            time.sleep(0.05)
        return seen

    def _fetch(self, row: Model | Dataset | Job) -> Any:
        with self.database.reading() as session:
            return session.get_one(type(row), row.id)
