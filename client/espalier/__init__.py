"""Espalier from Python: upload a network and a dataset, post a recipe, follow the job, download what it found.

export_model(network, images[:2], "network.pt2")
with Client("http://127.0.0.1:8000", api_key) as client:
    model = client.upload_model("network.pt2")
    dataset = client.upload_dataset("mnist.npz")
    job = client.create_job(model=model, dataset=dataset, recipe={"strategy": "lottery_ticket_reset"})
    job = client.wait(job["id"])
"""

from espalier.applying import Applied, apply
from espalier.client import Client
from espalier.errors import (
    ApiError,
    ApplyError,
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
    "Applied",
    "ApplyError",
    "Artifact",
    "Client",
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
    "apply",
    "export_model",
    "read_masks",
    "verify",
]
