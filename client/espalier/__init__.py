"""Espalier from Python: upload a network and a dataset, post a recipe, follow the job, download what it found.

export_model(network, images[:2], "network.pt2")
with Client("http://127.0.0.1:8000", api_key) as client:
    model = client.upload_model("network.pt2")
    dataset = client.upload_dataset("mnist.npz")
    job = client.create_job(model=model, dataset=dataset, recipe={"strategy": "lottery_ticket_reset"})
    job = client.wait(job["id"])
"""

from espalier.client import Client
from espalier.comparisons import ComparisonFailed
from espalier.errors import (
    ApiError,
    DigestMismatch,
    EspalierError,
    ExportError,
    JobFailed,
    NotReady,
    NotVerified,
    Unreachable,
    WaitTimedOut,
)
from espalier.exporting import export_model
from espalier.masks import read_masks
from espalier.provenance import verify
from espalier.shapes import (
    Artifact,
    Dataset,
    Envelope,
    Event,
    Job,
    Key,
    Link,
    Model,
    NewKey,
    Pareto,
    Problem,
    Round,
    Worker,
    Workers,
)

__all__ = [
    "ApiError",
    "Artifact",
    "Client",
    "ComparisonFailed",
    "Dataset",
    "DigestMismatch",
    "Envelope",
    "EspalierError",
    "Event",
    "ExportError",
    "Job",
    "JobFailed",
    "Key",
    "Link",
    "Model",
    "NewKey",
    "NotReady",
    "NotVerified",
    "Pareto",
    "Problem",
    "Round",
    "Unreachable",
    "WaitTimedOut",
    "Worker",
    "Workers",
    "export_model",
    "read_masks",
    "verify",
]
