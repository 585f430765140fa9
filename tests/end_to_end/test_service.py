"""The service's processes: killed, they come back and nothing is lost; left, none of them stays."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from espalier import Client, Job
from postgres import PostgresServer

from chaos.processes import children_of, descendants_of, is_alive
from embedded.serve import Service, ServiceError
from store.settings import Settings

Settle = Callable[[Path], Settings]
Connect = Callable[[Service], Client]

SMALL: dict[str, Any] = {
    "strategy": "lottery_ticket_reset",
    "stop": {"rounds": 4},
    "training": {"steps": 300, "batch_size": 20, "evaluate_every_steps": 100},
}
ENDLESS: dict[str, Any] = {**SMALL, "training": {**SMALL["training"], "steps": 1_000_000}}


def parts_of(data_dir: Path) -> dict[str, int]:
    """The living processes that this one started for a service, by name."""
    names = {"uvicorn": "api", "celery": "worker", "worker.sweeper": "sweeper"}
    found = {}
    for pid in filter(is_alive, children_of(os.getpid())):
        process = Path(f"/proc/{pid}")
        if (process / "cwd").readlink() == data_dir:
            found["broker"] = pid  # it writes its title over its environment
        elif f"ESPALIER_DATA_DIR={data_dir}".encode() in (process / "environ").read_bytes().split(b"\0"):
            words = (process / "cmdline").read_text().split("\0")
            found[next(name for word, name in names.items() if word in words)] = pid
    return found


def with_descendants(pids: list[int]) -> list[int]:
    return [pid for parent in pids for pid in (parent, *descendants_of(parent))]


def eventually(look: Callable[[], Any], seconds: float = 60) -> Any:
    """The first true thing that `look` gives."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)
    return seen


def post(client: Client, recipe: dict[str, Any], **options: Any) -> Job:
    """A job on a seeded network and examples that can be told apart. Computed, whatever there is: what two jobs compute
    is compared."""
    targets = np.arange(200) % 10
    images = np.eye(10, 16, dtype=np.float32)[targets].reshape(200, 1, 4, 4)
    model = client.upload_model(
        b"", architecture="lenet_300_100", format="architecture", input_shape=(1, 4, 4), num_classes=10
    )
    dataset = client.upload_dataset({"train": (images, targets), "validation": (images, targets)})
    return client.create_job(model=model, dataset=dataset, recipe=recipe, **{"cache": "off", **options})


@pytest.fixture(scope="module")
def undisturbed(client: Client) -> Job:
    return client.wait(post(client, SMALL)["id"], interval_seconds=0.1)


def post_again(client: Client, job: Job) -> Job:
    return client.create_job(model=job["model"], dataset=job["dataset"], recipe=job["recipe"], cache="off")


def digests(client: Client, job: Job) -> list[tuple[int | str, str, str]]:
    """Of what is promised to the bit: a card tells times, too."""
    offered = [artifact for artifact in client.artifacts(job["id"]) if artifact["kind"] != "card"]
    return [(artifact["round"], artifact["kind"], artifact["sha256"]) for artifact in offered]


def test_a_killed_worker_comes_back_and_the_result_is_the_same(
    client: Client, data_dir: Path, undisturbed: Job
) -> None:
    job = post_again(client, undisturbed)
    eventually(lambda: client.rounds(job["id"]))
    worker = parts_of(data_dir)["worker"]
    children = descendants_of(worker)
    os.kill(worker, signal.SIGKILL)
    ended = client.wait(job["id"], timeout_seconds=90, interval_seconds=0.1)
    assert (ended["status"], ended["conclusion"]) == ("succeeded", "passed")
    first, second = ended["attempts"]
    assert "lease ran out" in first["reason"]
    assert second["reason"] == "completed"
    assert first["worker"] != second["worker"]
    assert not any(map(is_alive, children))
    assert digests(client, job) == digests(client, undisturbed), "to the bit"


def test_all_the_other_parts_come_back(client: Client, data_dir: Path, undisturbed: Job) -> None:
    before = parts_of(data_dir)
    assert before.keys() == {"api", "broker", "sweeper", "worker"}
    for name in ("api", "broker", "sweeper"):
        os.kill(before[name], signal.SIGKILL)
    client.job(undisturbed["id"])  # a read waits until the API is back
    job = post_again(client, undisturbed)
    assert client.wait(job["id"], timeout_seconds=90, interval_seconds=0.1)["conclusion"] == "passed"
    after = parts_of(data_dir)
    assert after.keys() == before.keys()
    assert {name for name in before if after[name] == before[name]} == {"worker"}


def test_on_postgresql_the_result_is_the_same(
    settle: Settle, connect: Connect, postgres: PostgresServer, client: Client, undisturbed: Job, tmp_path: Path
) -> None:
    """The service makes its tables there itself."""
    with postgres.database(migrated=False) as url:
        settings = settle(tmp_path).model_copy(update={"database_url": url})
        with Service(settings) as service, connect(service) as other:
            job = other.wait(post(other, SMALL)["id"], timeout_seconds=90, interval_seconds=0.1)
            assert (job["status"], job["conclusion"]) == ("succeeded", "passed")
            assert digests(other, job) == digests(client, undisturbed), "to the bit"
    assert not (tmp_path / "espalier.db").exists()


def test_one_data_directory_is_served_by_one_service(settle: Settle, service: Service, data_dir: Path) -> None:
    before = parts_of(data_dir)
    with pytest.raises(ServiceError, match="another service runs on"), Service(settle(data_dir)):
        pass
    assert parts_of(data_dir) == before


def test_a_taken_port_is_refused(settle: Settle, service: Service, tmp_path: Path) -> None:
    port = int(service.url.rpartition(":")[2])
    taken = settle(tmp_path).model_copy(update={"port": port})
    with pytest.raises(ServiceError, match=f"{port} is in use"), Service(taken):
        pass
    assert parts_of(tmp_path) == {}


def test_a_stop_leaves_no_process_and_the_next_start_goes_on(settle: Settle, connect: Connect, tmp_path: Path) -> None:
    with Service(settle(tmp_path)) as service, connect(service) as client:
        job = post(client, ENDLESS, metadata={"sha": "1a2b"})
        eventually(lambda: client.job(job["id"])["progress"]["round"] is not None)
        parts = parts_of(tmp_path)
        assert parts.keys() == {"api", "broker", "sweeper", "worker"}
        processes = with_descendants(list(parts.values()))
        assert len(processes) > len(parts), "the training has a process of its own"
    assert not [pid for pid in processes if is_alive(pid)]

    with Service(settle(tmp_path)) as service, connect(service) as client:
        [kept] = client.jobs()
        assert (kept["id"], kept["metadata"], kept["recipe"]) == (job["id"], {"sha": "1a2b"}, job["recipe"])
        running = eventually(lambda: (now := client.job(job["id"]))["status"] == "running" and now)
        assert [attempt["reason"] for attempt in running["attempts"]] == ["the worker shut down", None]
        assert client.cancel(job["id"])["status"] == "canceling"
        processes = with_descendants(list(parts_of(tmp_path).values()))
    assert len(processes) > 4
    assert not [pid for pid in processes if is_alive(pid)]
