"""From the POST of a small job to its first training step, over HTTP, on the whole service with a worker that is warm.

Nobody stores the moment of a step. So it is told from behind: round 0, of one step, was stored at a moment that an
event tells, and the round tells what its own work took. What is left, the time of storing included, is no less than
what the first step waited for. The clock here, not CPU time: it is a user's wait, over several processes.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from espalier import Client
from pydantic import SecretStr

from benchmarks.measure import Target
from embedded.serve import Service
from store.settings import Settings

TARGET = Target(most=0.5)
KEY = "esp_a-key-for-the-benchmarks"
RECIPE: dict[str, Any] = {
    "strategy": "lottery_ticket_reset",
    "stop": {"rounds": 1},
    "training": {"steps": 1, "batch_size": 60, "evaluate_every_steps": 1},
}


def report(turns: int) -> list[str]:
    """After one turn that does not count."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), port=0, api_key=SecretStr(KEY), database_url=None, blob_url=None)
        with Service(settings) as service, Client(service.url, KEY) as client:
            references = _upload(client)
            claimed, started = zip(*[_turn(client, references) for _ in range(turns + 1)][1:], strict=True)
    median = statistics.median(started)
    return [
        "POST to the first training step of LeNet-300-100 on 1,000 examples, a warm worker, SQLite, sandbox "
        f"{settings.sandbox} ({turns} turns; the clock)",
        f"  claimed by the worker   {statistics.median(claimed):.3f} s",
        f"  first step, at most     {median:.3f} s ({min(started):.3f} to {max(started):.3f}) {TARGET.verdict(median)}",
    ]


def _upload(client: Client) -> dict[str, str]:
    targets = np.arange(1000) % 10
    images = np.random.default_rng(0).standard_normal((1000, 1, 28, 28)).astype("float32")
    model = client.upload_model(b"", architecture="lenet_300_100", format="architecture")
    dataset = client.upload_dataset({"train": (images, targets), "validation": (images[:200], targets[:200])})
    return {"model": model["id"], "dataset": dataset["id"]}


def _turn(client: Client, references: dict[str, str]) -> tuple[float, float]:
    """Seconds from the POST to the claim, and, at most, to the first step."""
    posted_at = time.time()
    job = client.create_job(model=references["model"], dataset=references["dataset"], recipe=RECIPE, cache="off")
    done = client.wait(job["id"], interval_seconds=0.05)
    first: dict[str, Any] = {**client.rounds(job["id"])[0]}
    claimed_at = datetime.fromisoformat(done["attempts"][0]["started_at"]).timestamp()
    stored_at = datetime.fromisoformat(first["created_at"]).timestamp()
    return claimed_at - posted_at, stored_at - posted_at - sum(first["seconds"].values())
