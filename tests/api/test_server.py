"""A real server process: bodies larger than its memory may grow, clients that go away, its first start and its end."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from store.database import Database
from store.keys import ensure_first_key
from store.settings import Settings

MIB = 1 << 20
LIMIT_BYTES = 100 * MIB
BODY_BYTES = 96 * MIB


@dataclass
class Server:
    port: int
    process: subprocess.Popen[bytes]
    key: str
    blob_dir: Path
    log: Path

    def memory_bytes(self) -> int:
        """The most it ever had resident."""
        [peak_kib] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        return int(peak_kib) * 1024

    def files(self) -> list[Path]:
        return [path for path in self.blob_dir.rglob("*") if path.is_file() and path.name != "owner"]

    def incoming(self) -> list[Path]:
        return list((self.blob_dir / "incoming").iterdir())

    def client(self) -> httpx2.Client:
        return httpx2.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers={"Authorization": f"Bearer {self.key}"}, timeout=60
        )

    def send_head(self, *headers: str, key: str | None = None) -> socket.socket:
        """The head of an upload on a bare connection."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        head = [
            "POST /v1/datasets?format=npz HTTP/1.1",
            "Host: localhost",
            f"Authorization: Bearer {key or self.key}",
            *headers,
        ]
        connection.sendall(("\r\n".join(head) + "\r\n\r\n").encode())
        return connection


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


NewDatabase = Callable[..., AbstractContextManager[str]]


@contextmanager
def running(data_dir: Path, database_url: str, broker_url: str, python: str) -> Iterator[Server]:
    """On a database without a row, with an end that is asked for."""
    settings = Settings(data_dir=data_dir, database_url=database_url, broker_url=broker_url)
    database = Database(settings.database)
    with database.transaction() as session:
        key = ensure_first_key(session, None)
    database.close()
    assert key is not None
    port, log = free_port(), data_dir / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [python, "-m", "uvicorn", "api.app:served", "--factory", "--port", str(port), "--no-access-log"],
            env={
                **os.environ,
                "ESPALIER_DATA_DIR": str(settings.data_dir),
                "ESPALIER_DATABASE_URL": settings.database,
                "ESPALIER_BROKER_URL": settings.broker_url,
                "ESPALIER_MAX_UPLOAD_BYTES": str(LIMIT_BYTES),
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = Server(port, process, key, settings.blob_dir, log)
    try:
        with server.client() as client:

            def is_up() -> bool:
                assert process.poll() is None, log.read_text()
                try:
                    return client.get("/readyz").status_code == 200
                except httpx2.TransportError:
                    return False

            wait_until(is_up, "the server does not answer")
        yield server
        process.terminate()
        process.wait(20)
    finally:
        process.kill()
        process.wait()
    # Whatever was done to it: nothing that happened was unforeseen.
    assert "Traceback" not in log.read_text()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"uvicorn.error", "api.observed"} <= {line["logger"] for line in lines}, "its server's lines are alike"
    assert not any(line["logger"] == "uvicorn.access" for line in lines), "a request has one line, and it is ours"
    assert all("request_id" in line for line in lines if line["event"] == "request")
    assert key not in log.read_text()


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, new_database: NewDatabase, broker_url: str, python: str
) -> Iterator[Server]:
    """One for all tests of this file but its end: its start costs more than they do."""
    data_dir = tmp_path_factory.mktemp("server")
    with new_database(data_dir) as url, running(data_dir, url, broker_url, python) as server:
        yield server


@pytest.fixture
def left_alone(server: Server) -> Iterator[None]:
    """The test leaves no file behind."""
    before = server.files()
    yield
    assert server.files() == before


def chunks(num_bytes: int) -> Iterator[bytes]:
    """A safetensors file of that size, made as it is sent."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode().ljust(128)
    head = len(header).to_bytes(8, "little") + header
    piece = head.ljust(64 * 1024, b"\x01")
    for sent in range(0, num_bytes, len(piece)):
        yield piece[: num_bytes - sent]
        piece = b"\x01" * len(piece)


def test_uploads_at_constant_memory(server: Server) -> None:
    digest = hashlib.sha256()
    for chunk in chunks(BODY_BYTES):
        digest.update(chunk)
    before = server.memory_bytes()
    with server.client() as client:
        for headers in ({}, {"Content-Length": str(BODY_BYTES)}):
            response = client.post("/v1/datasets?format=safetensors", content=chunks(BODY_BYTES), headers=headers)
            assert response.status_code == 201, response.text
            assert response.json()["sha256"] == digest.hexdigest()
            assert response.json()["size_bytes"] == BODY_BYTES
    grown = server.memory_bytes() - before
    assert grown < 16 * MIB, f"the server grew by {grown / MIB:.0f} MiB for a body of {BODY_BYTES / MIB:.0f} MiB"
    copies = server.files()  # the second is given up, and lies there until a sweeper's turn
    assert {copy.name.partition("-")[0] for copy in copies} == {digest.hexdigest()}
    assert {copy.stat().st_size for copy in copies} == {BODY_BYTES}


@pytest.mark.usefixtures("left_alone")
@pytest.mark.parametrize(
    ("header", "sent"),
    [
        (f"Content-Length: {64 * MIB}", b"PK\x03\x04" + bytes(4 * MIB)),
        ("Transfer-Encoding: chunked", b"400000\r\nPK\x03\x04" + bytes(4 * MIB - 4) + b"\r\n"),
    ],
    ids=["of known length", "in chunks"],
)
def test_an_upload_that_breaks_off_leaves_nothing(server: Server, header: str, sent: bytes) -> None:
    connection = server.send_head(header)
    connection.sendall(sent)
    wait_until(lambda: any(path.stat().st_size > MIB for path in server.incoming()), "nothing is written")
    with server.client() as client:
        known = client.get("/v1/datasets?limit=1").json()["data"]
        # Meanwhile others are served.
        assert client.get("/healthz").elapsed.total_seconds() < 2
        connection.close()
        wait_until(lambda: server.incoming() == [], "the file stays")
        assert client.get("/v1/datasets?limit=1").json()["data"] == known


@pytest.mark.usefixtures("left_alone")
@pytest.mark.parametrize("expect", [[], ["Expect: 100-continue"]], ids=["", "asking first"])
def test_a_body_that_is_too_large_is_refused_before_it_is_sent(server: Server, expect: list[str]) -> None:
    with server.send_head(f"Content-Length: {LIMIT_BYTES + 1}", *expect) as connection:
        answer = connection.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 413")
    assert "application/problem+json" in answer


def test_a_body_that_fits_is_asked_for(server: Server) -> None:
    """What curl does with a large file: it waits for the server's word."""
    content = b"PK\x03\x04 asked for"
    with server.send_head(f"Content-Length: {len(content)}", "Expect: 100-continue") as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 100")
        connection.sendall(content)
        assert connection.recv(65536).startswith(b"HTTP/1.1 201")


@pytest.mark.usefixtures("left_alone")
def test_a_body_that_turns_out_too_large_is_refused_at_the_limit(server: Server) -> None:
    with server.client() as client:
        response = client.post("/v1/datasets?format=safetensors", content=chunks(LIMIT_BYTES + 3 * MIB))
    assert response.status_code == 413
    assert response.json()["code"] == "too_large"


@pytest.mark.usefixtures("left_alone")
def test_no_key_no_byte(server: Server) -> None:
    with server.send_head(f"Content-Length: {MIB}", key="esp_wrong") as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 401")


def test_many_resumable_uploads_at_constant_memory(server: Server) -> None:
    """Each in two requests, all at the same time."""
    each_bytes, begun_bytes = 48 * MIB, 16 * MIB
    content = b"".join(chunks(each_bytes))

    def upload(number: int) -> str:
        mine = number.to_bytes(8, "little") + content[8:]
        with server.client() as client:
            begun = client.post("/v1/uploads", content=mine[:begun_bytes], headers={"Upload-Complete": "?0"})
            headers = {"Upload-Complete": "?1", "Upload-Offset": str(begun_bytes)}
            headers["Content-Type"] = "application/partial-upload"
            done = client.patch(begun.headers["location"], content=mine[begun_bytes:], headers=headers)
            assert done.json()["sha256"] == hashlib.sha256(mine).hexdigest()
            return begun.headers["location"]

    upload(0)
    before = server.memory_bytes()
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(upload, range(1, 9)))
    grown = server.memory_bytes() - before
    assert grown < 64 * MIB, f"the server grew by {grown / MIB:.0f} MiB for 8 uploads of {each_bytes / MIB:.0f} MiB"
    with server.client() as client:
        assert {client.delete(path).status_code for path in paths} == {204}


def test_its_end(tmp_path: Path, new_database: NewDatabase, broker_url: str, python: str) -> None:
    """SIGTERM: it takes no more, finishes what it has begun, closes its database, and is gone."""
    content = b"PK\x03\x04" + bytes(4 * MIB)
    with new_database(tmp_path) as url, running(tmp_path, url, broker_url, python) as server:
        connection = server.send_head(f"Content-Length: {len(content)}")
        connection.sendall(content[: 2 * MIB])
        wait_until(lambda: any(path.stat().st_size >= MIB for path in server.incoming()), "nothing is written")
        server.process.terminate()
        wait_until(lambda: "Shutting down" in server.log.read_text(), "it does not heed the signal")
        with pytest.raises(ConnectionRefusedError):
            server.send_head()
        connection.sendall(content[2 * MIB :])
        assert connection.recv(65536).startswith(b"HTTP/1.1 201")
        connection.close()
        assert server.process.wait(20) in (0, -signal.SIGTERM)
    assert "Application shutdown complete" in server.log.read_text()
    assert [path.read_bytes() for path in server.files()] == [content]
    assert not list(tmp_path.glob("*-wal"))
