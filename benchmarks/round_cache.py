"""What it costs to try many recipes, with the round cache and without: on the whole service, over HTTP, by the clock.

Six recipes of ten rounds that share their dense round are posted at once, with the cache on and off in turn; each turn
has a seed of its own, so that nothing of another turn is there. Then one of them is posted again.
"""

from __future__ import annotations

import statistics
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from espalier import Client
from pydantic import SecretStr

from benchmarks.measure import Target
from benchmarks.warm_start import KEY
from embedded.serve import Service
from store.settings import Settings

ROUNDS, STEPS = 10, 300
ALL = Target(most=1.03)
AGAIN = Target(most=1.0)
BOOKKEEPING = Target(most=0.01)
WAYS: list[dict[str, Any]] = [
    {},
    {"schedule": {"fraction": 0.1}},
    {"schedule": {"fraction": 0.3}},
    {"criterion": {"name": "random"}},
    {"between_rounds": {"weights": "continue"}},
    {"between_rounds": {"weights": "reinit"}},
]


def report(turns: int) -> list[str]:
    """After one turn that does not count."""
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), port=0, api_key=SecretStr(KEY), database_url=None, blob_url=None)
        with Service(settings) as service, Client(service.url, KEY) as client:
            references = _upload(client)
            for turn in range(turns + 1):
                measured.append(_turn(client, references, turn))
    ratios, dense, again, adopting = (statistics.median(figures) for figures in zip(*measured[1:], strict=True))
    return [
        f"six jobs of {ROUNDS} rounds of {STEPS} steps, LeNet-300-100, one worker, SQLite ({turns} turns; the clock)",
        f"  with the cache, x (without, less five dense rounds of {dense:.2f} s)   {ratios:.3f} {ALL.verdict(ratios)}",
        f"  one of them posted again, until it has ended       {again:.3f} s {AGAIN.verdict(again)}",
        f"  adopting an entry, x a round that is computed      {adopting:.4f} {BOOKKEEPING.verdict(adopting)}",
    ]


def _upload(client: Client) -> dict[str, str]:
    targets = np.arange(6000) % 10
    images = np.random.default_rng(0).standard_normal((6000, 1, 28, 28)).astype("float32")
    model = client.upload_model(b"", architecture="lenet_300_100", format="architecture")
    dataset = client.upload_dataset({"train": (images, targets), "validation": (images[:1000], targets[:1000])})
    return {"model": model["id"], "dataset": dataset["id"]}


def _turn(client: Client, references: dict[str, str], seed: int) -> tuple[float, float, float, float]:
    """(ratio, seconds of a dense round, of a repeated job, an adopted entry by a computed round)."""
    taken: dict[str, float] = {}
    for cache in ("on", "off") if seed % 2 else ("off", "on"):
        # Without the cache nothing is adopted, but what it stored would be: each way has its own seed.
        taken[cache], jobs = _all(client, references, cache, 2 * seed + (cache == "on"))
        if cache == "on":
            shared = jobs
        else:
            alone = jobs
    rounds: list[Any] = [client.rounds(job)[0] for job in alone]
    dense = statistics.median(sum(round_["seconds"].values()) for round_ in rounds)
    again = client.wait(_post(client, references, "on", 2 * seed + 1, WAYS[0]), interval_seconds=0.02)
    repeated, first = _seconds(again), client.job(shared[0])
    entry, computed = repeated / (ROUNDS + 1), _seconds(first) / (ROUNDS + 1)
    return taken["on"] / (taken["off"] - 5 * dense), dense, repeated, entry / computed


def _all(client: Client, references: dict[str, str], cache: str, seed: int) -> tuple[float, list[str]]:
    posted = [_post(client, references, cache, seed, way) for way in WAYS]
    ended = [client.wait(job, interval_seconds=0.05) for job in posted]
    began = min(datetime.fromisoformat(job["created_at"]) for job in ended)
    return (max(datetime.fromisoformat(str(job["finished_at"])) for job in ended) - began).total_seconds(), posted


def _post(client: Client, references: dict[str, str], cache: str, seed: int, way: dict[str, Any]) -> str:
    training = {"steps": STEPS, "batch_size": 60, "evaluate_every_steps": STEPS}
    recipe = {"strategy": "lottery_ticket_reset", "stop": {"rounds": ROUNDS}, "training": training, "seed": seed, **way}
    return client.create_job(model=references["model"], dataset=references["dataset"], recipe=recipe, cache=cache)["id"]


def _seconds(job: Any) -> float:
    return (datetime.fromisoformat(job["finished_at"]) - datetime.fromisoformat(job["created_at"])).total_seconds()


if __name__ == "__main__":
    print(*report(3), sep="\n")
