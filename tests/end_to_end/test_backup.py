"""A backup of the running service, everything killed, and the service that is restored from it elsewhere."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from espalier import Artifact, Client, Job

from chaos.processes import descendants_of, is_alive

KEY = "esp_a-key-for-the-test-of-backups"
RECIPE: dict[str, Any] = {
    "strategy": "lottery_ticket_reset",
    "stop": {"rounds": 4},
    "training": {"steps": 1500, "batch_size": 20, "evaluate_every_steps": 500},
}


def environment(data_dir: Path) -> dict[str, str]:
    ours = {"DATA_DIR": data_dir, "API_KEY": KEY, "PORT": 0, "LEASE_SECONDS": 4, "RENEW_SECONDS": 0.5}
    return {**os.environ, **{f"ESPALIER_{name}": str(value) for name, value in ours.items()}}


def run(module: str, data_dir: Path, folder: Path) -> str:
    command = [sys.executable, "-m", module, str(folder)]
    done = subprocess.run(command, env=environment(data_dir), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def serving(data_dir: Path) -> Iterator[Client]:
    """Killed outright at the end: the service and all that it has started."""
    command = [sys.executable, "-m", "embedded.serve"]
    with subprocess.Popen(command, env=environment(data_dir), stderr=subprocess.PIPE, text=True) as service:
        try:
            assert service.stderr is not None
            said = next(found for line in service.stderr if (found := re.search(r"listens on (http://\S+)", line)))
            with Client(said[1], KEY) as client:
                yield client
        finally:
            killed = [service.pid, *descendants_of(service.pid)]
            for pid in killed:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            service.wait()
            while any(is_alive(pid) for pid in killed):
                time.sleep(0.01)


def post(client: Client) -> Job:
    targets = np.arange(200) % 10
    images = np.eye(10, 16, dtype=np.float32)[targets].reshape(200, 1, 4, 4)
    spec: dict[str, Any] = {"format": "architecture", "input_shape": (1, 4, 4), "num_classes": 10}
    model = client.upload_model(b"", architecture="lenet_300_100", **spec)
    dataset = client.upload_dataset({"train": (images, targets), "validation": (images, targets)})
    return client.create_job(model=model, dataset=dataset, recipe=RECIPE, max_failures=1, cache="off")


def digests(client: Client, job: Job) -> dict[tuple[int | str, str], str]:
    return {(artifact["round"], artifact["kind"]): artifact["sha256"] for artifact in exact(client, job)}


def exact(client: Client, job: Job) -> list[Artifact]:
    """What is promised to the bit: a card tells times, too."""
    return [artifact for artifact in client.artifacts(job["id"]) if artifact["kind"] != "card"]


@pytest.mark.timeout(240)
def test_a_service_restored_from_a_backup_has_every_round_and_ends_its_job_as_if_undisturbed(tmp_path: Path) -> None:
    with serving(tmp_path / "first") as client:
        job = post(client)
        while not client.rounds(job["id"]):
            time.sleep(0.05)
        stored = digests(client, job)
        print(run("embedded.backup", tmp_path / "first", tmp_path / "backup"))
        assert client.job(job["id"])["status"] == "running", "before the backup, and after it"

    run("embedded.restore", tmp_path / "second", tmp_path / "backup")
    with serving(tmp_path / "second") as client:
        kept = client.artifacts(job["id"])
        assert {(artifact["round"], artifact["kind"]) for artifact in kept} >= stored.keys()
        for artifact in kept:  # checked against its digest on the way
            client.download(artifact, tmp_path / "downloaded")
            assert artifact["sha256"] == stored.get((artifact["round"], artifact["kind"]), artifact["sha256"])
        ended = client.wait(job["id"], timeout_seconds=90, interval_seconds=0.1)
        assert [attempt["reason"] for attempt in ended["attempts"]] == [
            "the service was restored from a backup",
            "completed",
        ]
        undisturbed = client.wait(client.retry(job["id"])["id"], timeout_seconds=90, interval_seconds=0.1)
        assert len(undisturbed["attempts"]) == 1
        assert digests(client, ended) == digests(client, undisturbed), "to the bit"
        assert len(digests(client, ended)) == 15
