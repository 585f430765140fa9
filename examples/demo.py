"""Espalier in one minute: two networks, three pruning algorithms, all over HTTP; then the same three, compared.

    .venv/bin/python examples/demo.py

Starts a service for itself, exports two networks whose classes the service has never seen, has them trained and pruned
on scikit-learn's digits, and checks what comes back: the weights load into the user's own modules, are zero where the
masks say, and are as accurate as the service reported; and the pruned program, without its class, computes the same.
Last it asks which of the three to take for one network, over two seeds and beside two controls (`comparing.py`).
"""

from __future__ import annotations

import secrets
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from comparing import compare, is_sound
from digits import SCALE, Split, load_splits
from espalier import Client, Dataset, EspalierError, Job, Model, Round, export_model, read_masks
from networks import LeNet, Sapling, initialised
from pictures import Following, console, draw_curves, print_rounds, selected
from pydantic import SecretStr
from safetensors.torch import load_file
from torch import nn

from embedded.serve import Service, ServiceError
from store.settings import Settings


@dataclass(frozen=True)
class Study:
    """One algorithm on one network."""

    strategy: str
    network: type[nn.Module]
    recipe: dict[str, Any]
    gates: list[dict[str, Any]] = field(default_factory=list)


LOTTERY_TICKET: dict[str, Any] = {
    "schedule": {"fraction": 0.3},
    "stop": {"rounds": 11},
    "training": {"steps": 400, "preprocessing": {"scale": SCALE}},
    "seed": 1,
}
DROPNET: dict[str, Any] = {
    "schedule": {"fraction": 0.15},
    "stop": {"rounds": 10, "accuracy_floor": {"factor": 0.98}},
    "training": {"epochs": 5, "optimizer": {"name": "adam", "lr": 0.001}, "preprocessing": {"scale": SCALE}},
    "seed": 1,
}
GOOD_ENOUGH = [{"metric": "accuracy", "op": ">=", "value": 0.95}]

STUDIES = [
    Study("lottery_ticket_reset", LeNet, LOTTERY_TICKET, GOOD_ENOUGH),
    Study("lottery_ticket_continue", LeNet, LOTTERY_TICKET, GOOD_ENOUGH),
    Study("dropnet", Sapling, DROPNET),
]


def main() -> int:
    data_dir = Settings().data_dir  # ESPALIER_DATA_DIR, or ./var
    folder = data_dir / "demo"
    api_key = own_key(folder / "api_key")
    started_at = time.monotonic()
    with Service(Settings(port=0, api_key=SecretStr(api_key))) as service, Client(service.url, api_key) as client:
        console.print(f"A service of its own answers at {service.url} (after {time.monotonic() - started_at:.0f} s).\n")
        splits = load_splits()
        dataset, models = upload(client, splits)
        jobs = post_jobs(client, dataset, models)
        results = follow_jobs(client, jobs)
        for study, job, rounds in results:
            print_rounds(study.strategy, job, rounds)
        agreed = [verify(client, study, job, rounds, splits["test"], folder) for study, job, rounds in results]
        agreed.append(is_sound(compare(client, models[LeNet], dataset, folder)))
    draw_curves([(study.strategy, job, rounds) for study, job, rounds in results], folder)
    console.print(
        f"\nCurves: {folder}/accuracy.png, comparison.png (and .svg). Networks and all: {folder}/<strategy>/."
    )
    console.print(f"All of it took {time.monotonic() - started_at:.0f} s. `make serve` keeps a service running;")
    console.print(f"the API key in {folder}/api_key opens it, with these jobs still there.")
    return 0 if all(agreed) else 1


def own_key(path: Path) -> str:
    """The demo's API key, made at its first run and kept for the next."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(f"esp_{secrets.token_urlsafe(32)}")
    return path.read_text()


def upload(client: Client, splits: dict[str, Split]) -> tuple[Dataset, dict[type[nn.Module], Model]]:
    """The data, and each network, exported."""
    dataset = client.upload_dataset(splits, name="digits")
    images = torch.from_numpy(splits["train"][0][:2]) * SCALE
    models = {}
    for network in {study.network for study in STUDIES}:
        with tempfile.TemporaryDirectory() as scratch:
            program = export_model(first_weights(network), images, Path(scratch) / f"{network.__name__}.pt2")
            models[network] = client.upload_model(program)
    return dataset, models


def post_jobs(client: Client, dataset: Dataset, models: dict[type[nn.Module], Model]) -> list[tuple[Study, Job]]:
    """One job per study."""
    jobs = []
    for study in STUDIES:
        recipe = {"strategy": study.strategy, **study.recipe}
        # The priority goes before whatever else waits in this data directory.
        job = client.create_job(
            model=models[study.network], dataset=dataset, recipe=recipe, gates=study.gates, priority=10
        )
        jobs.append((study, job))
    return jobs


def first_weights(network: type[nn.Module]) -> nn.Module:
    return initialised(network(), seed=1)


def follow_jobs(client: Client, jobs: list[tuple[Study, Job]]) -> list[tuple[Study, Job, list[Round]]]:
    """Watch each job to its end and read its rounds. Who leaves early cancels what still runs."""
    try:
        with Following([(job["id"], study.strategy) for study, job in jobs]) as following:
            for _, job in jobs:
                for seen in client.follow(job["id"], interval_seconds=0.2):
                    following.update(seen)
            return [(study, client.wait(job["id"]), client.rounds(job["id"])) for study, job in jobs]
    except BaseException:
        for _, job in jobs:
            with suppress(EspalierError):  # it was done already
                client.cancel(job["id"])
        raise


def verify(client: Client, study: Study, job: Job, rounds: list[Round], test: Split, folder: Path) -> bool:
    """Download the selected round and hold it against its masks, the first weights and the reported accuracy."""
    chosen = selected(job, rounds)
    files = {
        artifact["kind"]: client.download(artifact, folder / study.strategy / artifact["filename"])
        for artifact in chosen["artifacts"]
    }
    network = first_weights(study.network)
    first = {name: weights.clone() for name, weights in network.state_dict().items()}
    network.load_state_dict(load_file(files["model"]), strict=True)
    trained, ticket = network.state_dict(), load_file(files["ticket"])

    masks_hold = tickets_hold = True
    for name, mask in read_masks(files["masks"]).items():
        kept = torch.from_numpy(mask)
        masks_hold &= not trained[name][~kept].any() and not ticket[name][~kept].any()
        tickets_hold &= torch.equal(ticket[name][kept], first[name][kept])
    images = torch.from_numpy(test[0]) * SCALE
    program = torch.export.load(files["program"]).module()
    with torch.no_grad():
        computes_the_same = torch.allclose(program(images), network.eval()(images), atol=1e-4)
    measured, reported = accuracy(network, test), chosen["metrics"]["test"]["accuracy"]
    agrees = abs(measured - reported) < 0.5 / len(test[0])  # not one example apart

    console.print(f"{study.strategy}: test accuracy {measured:.4f} measured here, {reported:.4f} reported.", end=" ")
    complaints = [
        complaint
        for holds, complaint in (
            (masks_hold, "a weight that the masks remove is not zero"),
            (tickets_hold, "a weight of the ticket is not the one it started from"),
            (agrees, "the accuracies differ"),
            (computes_the_same, "the exported program computes something else"),
        )
        if not holds
    ]
    console.print(f"[bold red]Wrong: {'; '.join(complaints)}.[/]" if complaints else "Masks, ticket and program hold.")
    return not complaints


@torch.no_grad()
def accuracy(network: nn.Module, split: Split) -> float:
    images, labels = (torch.from_numpy(array) for array in split)
    predicted = network.eval()(images * SCALE).argmax(dim=1)
    return int((predicted == labels).sum()) / len(labels)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        console.print("\nStopped: the jobs are canceled, the service is down.")
        sys.exit(130)
    except (EspalierError, ServiceError) as error:
        console.print(f"[bold red]{type(error).__name__}:[/] {error}")
        sys.exit(1)
