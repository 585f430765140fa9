"""Espalier from Python: upload a network and a dataset, post a recipe, follow the job, download what it found.

export_model(network, images[:2], "network.pt2")
with Client("http://127.0.0.1:8000", api_key) as client:
    model = client.upload_model("network.pt2")
    dataset = client.upload_dataset("mnist.npz")
    job = client.create_job(model=model, dataset=dataset, recipe={"strategy": "lottery_ticket_reset"})
    job = client.wait(job["id"])
"""

from espalier.asynchronous import AsyncClient
from espalier.client import Client
from espalier.errors import (
    ApiError,
    Conflict,
    DigestMismatch,
    EspalierError,
    ExportError,
    Invalid,
    JobFailed,
    NotAllowed,
    NotFound,
    NotReady,
    NotVerified,
    RateLimited,
    ServiceFailed,
    Unreachable,
    VersionSkew,
    WaitTimedOut,
)
from espalier.exporting import export_model
from espalier.masks import read_masks
from espalier.provenance import verify
from espalier.shapes import (
    Artifact,
    AuditEntry,
    Dataset,
    Delivery,
    Envelope,
    Event,
    Job,
    Key,
    Link,
    Model,
    NewKey,
    NewWebhook,
    Pareto,
    Plan,
    Problem,
    Project,
    Round,
    Strategy,
    TrustRule,
    Webhook,
    Worker,
    Workers,
)
from espalier.version import VERSION

__all__ = [
    "VERSION",
    "ApiError",
    "Artifact",
    "AsyncClient",
    "AuditEntry",
    "Client",
    "Conflict",
    "Dataset",
    "Delivery",
    "DigestMismatch",
    "Envelope",
    "EspalierError",
    "Event",
    "ExportError",
    "Invalid",
    "Job",
    "JobFailed",
    "Key",
    "Link",
    "Model",
    "NewKey",
    "NewWebhook",
    "NotAllowed",
    "NotFound",
    "NotReady",
    "NotVerified",
    "Pareto",
    "Plan",
    "Problem",
    "Project",
    "RateLimited",
    "Round",
    "ServiceFailed",
    "Strategy",
    "TrustRule",
    "Unreachable",
    "VersionSkew",
    "WaitTimedOut",
    "Webhook",
    "Worker",
    "Workers",
    "export_model",
    "read_masks",
    "verify",
]
