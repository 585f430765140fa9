from __future__ import annotations

from collections.abc import Callable

import pytest

from store import intake, jobs
from store.blobs import BlobStore
from store.database import Database
from store.tables import Dataset, Job, Model

RECIPE = {"strategy": "lottery_ticket_reset"}


@pytest.fixture
def submit(database: Database, blobs: BlobStore, project: str) -> Callable[..., Job]:
    """Submit a job on a ready model and dataset."""

    def make(**columns: object) -> Job:
        blob = blobs.put([b"content"], 100)
        with database.transaction() as session:
            model = intake.add_model(session, project_id=project, name="m", format="safetensors", spec={}, blob=blob)
            dataset = intake.add_dataset(session, project_id=project, name="d", format="npz", blob=blob)
            for row in (model, dataset):
                row.status = "ready"
            return jobs.submit(session, **job_columns(project, model, dataset, **columns))

    return make


def job_columns(project: str, model: Model, dataset: Dataset, **columns: object) -> dict[str, object]:
    return {
        "project_id": project,
        "model_id": model.id,
        "dataset_id": dataset.id,
        "recipe": RECIPE,
        "gates": [],
        "select": "smallest_passing",
        "artifacts": ["model"],
        "pool": "cpu",
        "options": {},
        "planned_rounds": 3,
        **columns,
    }
