"""Espalier from Python: upload a network and a dataset, post a recipe, follow the job, download what it found.

with Client("http://127.0.0.1:8000", api_key) as client:
    model = client.upload_model("lenet.safetensors", architecture="lenet_300_100")
    dataset = client.upload_dataset("mnist.npz")
    job = client.create_job(model=model, dataset=dataset, recipe={"strategy": "lottery_ticket_reset"})
    job = client.wait(job["id"])
"""

from espalier.client import Client
from espalier.errors import (
    ApiError,
    DigestMismatch,
    EspalierError,
    JobFailed,
    NotReady,
    Unreachable,
    WaitTimedOut,
)
from espalier.masks import read_masks
from espalier.shapes import Artifact, Dataset, Job, Model, Problem, Round

__all__ = [
    "ApiError",
    "Artifact",
    "Client",
    "Dataset",
    "DigestMismatch",
    "EspalierError",
    "Job",
    "JobFailed",
    "Model",
    "NotReady",
    "Problem",
    "Round",
    "Unreachable",
    "WaitTimedOut",
    "read_masks",
]
