"""Resumable uploads through a real server, against one process that hashes and writes the same bytes.

Wall time: what is asked is how long a user waits. The server, the sender and the yardstick share one machine and one
disk, and each ends with the bytes synced to it. On a machine that others use the server's CPU time says more.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from io import FileIO
from pathlib import Path

import migrations
from benchmarks.measure import ROOT, Target, cpu_seconds, ratio, take_turns
from benchmarks.servers import wait_until_up
from store.blobs import open_blobs
from store.collection import remove_discarded
from store.database import Database
from store.keys import ensure_first_key
from store.settings import Settings

PIECE_BYTES = 1 << 20
AT_ONCE = 8


def report(num_bytes: int, turns: int) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="espalier-bench") as folder:
        source = _random_file(Path(folder) / "source", num_bytes)
        eighth = _random_file(Path(folder) / "eighth", num_bytes // AT_ONCE)
        with _server(Path(folder) / "data") as server:
            ways = {
                "hash and write": lambda: _timed(lambda: _hash_and_write(source, Path(folder) / "written")),
                "one upload": lambda: server.timed(lambda: server.upload(source)),
                f"{AT_ONCE} at once": lambda: server.timed(lambda: server.upload_many(eighth)),
            }
            times = take_turns(ways, turns)
            costs = take_turns(
                {
                    "hash and write": lambda: _cpu(lambda: _hash_and_write(source, Path(folder) / "written")),
                    "one upload": lambda: server.cpu(lambda: server.upload(source)),
                },
                turns,
            )
            grown = server.peak_bytes() - server.idle_bytes
    speeds = {way: num_bytes / 1e6 / statistics.median(seconds) for way, seconds in times.items()}
    target = Target(least=0.8)
    lines = [f"resumable uploads of {num_bytes >> 20} MiB, {turns} turns, wall time"]
    for way, speed in speeds.items():
        share = 1 / ratio(times, way, "hash and write")
        verdict = "" if way == "hash and write" else f": {share:.2f} of it, {target.verdict(share)}"
        lines.append(f"  {way:<16} {speed:6.0f} MB/s{verdict}")
    cost = ratio(costs, "one upload", "hash and write")
    lines.append(f"  the server's CPU time for one upload is {cost:.2f} of what it takes to hash and write")
    lines.append(f"  the server's memory grew by {grown / 2**20:.0f} MiB at most")
    return lines


def _timed(work: Callable[[], None]) -> float:
    os.sync()  # what came before is none of its business
    started = time.monotonic()
    work()
    return time.monotonic() - started


def _cpu(work: Callable[[], None]) -> float:
    started = cpu_seconds()
    work()
    return cpu_seconds() - started


def _random_file(path: Path, num_bytes: int) -> Path:
    with path.open("wb") as file:
        for _ in range(num_bytes // PIECE_BYTES):
            file.write(os.urandom(PIECE_BYTES))
    return path


def _hash_and_write(source: Path, target: Path) -> None:
    hash = hashlib.sha256()
    with source.open("rb", buffering=0) as file, target.open("wb", buffering=0) as written:
        while piece := file.read(PIECE_BYTES):
            hash.update(piece)
            written.write(piece)
        os.fsync(written.fileno())
    hash.hexdigest()
    target.unlink()


class _Server:
    def __init__(self, port: int, key: str, pid: int, settings: Settings) -> None:
        self._port, self._key, self._pid, self._settings = port, key, pid, settings
        self.idle_bytes = 0
        self._made: list[str] = []

    def cpu(self, work: Callable[[], None]) -> float:
        """User and system seconds of the server's process."""
        started = self._cpu_seconds()
        self.timed(work)
        return self._cpu_seconds() - started

    def _cpu_seconds(self) -> float:
        times = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")

    def timed(self, work: Callable[[], None]) -> float:
        """Of the uploads alone: that they are deleted again is no part of them."""
        seconds = _timed(work)
        while self._made:
            connection = HTTPConnection("127.0.0.1", self._port)
            self._answer(connection, "DELETE", self._made.pop(), {})
            connection.close()
        database = Database(self._settings.database)
        remove_discarded(database, open_blobs(self._settings))  # as a sweeper does: else the disk would fill
        database.close()
        return seconds

    def upload(self, source: Path) -> None:
        connection = HTTPConnection("127.0.0.1", self._port, blocksize=PIECE_BYTES)
        path = self._answer(connection, "POST", "/v1/uploads", {"Upload-Complete": "?0"})
        headers = {
            "Content-Type": "application/partial-upload",
            "Content-Length": str(source.stat().st_size),
            "Upload-Complete": "?1",
            "Upload-Offset": "0",
        }
        with source.open("rb", buffering=0) as file:
            self._answer(connection, "PATCH", path, headers, file)
        connection.close()
        self._made.append(path)

    def upload_many(self, source: Path) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self.upload, [source] * AT_ONCE))

    def peak_bytes(self) -> int:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self._pid}/status").read_text())
        assert found is not None
        return int(found[1]) * 1024

    def _answer(
        self, connection: HTTPConnection, method: str, path: str, headers: dict[str, str], body: FileIO | None = None
    ) -> str:
        """Where it says that the upload is."""
        connection.request(method, path, body, {"Authorization": f"Bearer {self._key}", **headers})
        response = connection.getresponse()
        text = response.read()
        if response.status >= 300:
            raise SystemExit(f"{method} {path}: {response.status} {text.decode()}")
        return response.headers.get("Location", "")


@contextmanager
def _server(data_dir: Path) -> Iterator[_Server]:
    """The command of a production set-up, on SQLite and a folder; no broker, which uploads do not need."""
    data_dir.mkdir()
    settings = Settings(data_dir=data_dir, database_url=f"sqlite:///{data_dir / 'espalier.db'}", blob_url=None)
    migrations.upgrade(settings.database)
    database = Database(settings.database)
    with database.transaction() as session:
        key = ensure_first_key(session, None)
    database.close()
    assert key is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "api.app:create_app", "--factory", "--port", str(port), "--no-access-log"],
        cwd=ROOT,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("ESPALIER_")},
            "ESPALIER_DATA_DIR": str(data_dir),
            "ESPALIER_BROKER_URL": "redis://127.0.0.1:9/0",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        server = _Server(port, key, process.pid, settings)
        wait_until_up(port)
        server.idle_bytes = server.peak_bytes()
        yield server
    finally:
        process.kill()
        process.wait()
