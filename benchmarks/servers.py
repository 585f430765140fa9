"""A real uvicorn process, its CPU time, and keep-alive connections to it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from benchmarks.measure import ROOT


class Asked:
    """One request, as bytes, and the connection that it goes over again and again."""

    def __init__(self, port: int, path: str, headers: Mapping[str, str], status: int) -> None:
        lines = [f"GET {path} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in headers.items())]
        self._request = "\r\n".join([*lines, "", ""]).encode()
        self._status = f"HTTP/1.1 {status} ".encode()
        self.body_bytes = 0
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self) -> float:
        """Seconds until the answer was whole."""
        began_at = time.perf_counter()
        self._socket.sendall(self._request)
        answer = self._socket.recv(1 << 16)
        while b"\r\n\r\n" not in answer:
            answer += self._socket.recv(1 << 16)
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(self._status):
            raise SystemExit(f"not the awaited answer: {answer[:2000].decode()}")
        self.body_bytes = _content_length(head)
        missing = self.body_bytes - len(body)
        while missing > 0:
            missing -= len(self._socket.recv(1 << 16))
        return time.perf_counter() - began_at

    def close(self) -> None:
        self._socket.close()


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


class Server:
    def __init__(self, port: int, pid: int) -> None:
        self.port, self._pid = port, pid

    def cpu_of_request(self, path: str, headers: Mapping[str, str], status: int, num: int) -> float:
        """Seconds of the server's process, all threads, user and system, over one connection."""
        asked = Asked(self.port, path, headers, status)
        for _ in range(50):
            asked.send()
        started = self._cpu_seconds()
        for _ in range(num):
            asked.send()
        spent = self._cpu_seconds() - started
        asked.close()
        return spent / num

    def latencies(self, path: str, headers: Mapping[str, str], num: int, at_once: int) -> list[float]:
        """In order of size, of `at_once` clients that each ask again as soon as they are answered."""

        def ask(asked: Asked) -> list[float]:
            return [asked.send() for _ in range(num // at_once)]

        connections = [Asked(self.port, path, headers, 200) for _ in range(at_once)]
        with ThreadPoolExecutor(at_once) as pool:
            taken = [seconds for some in pool.map(ask, connections) for seconds in some]
        for asked in connections:
            asked.close()
        return sorted(taken)

    def _cpu_seconds(self) -> float:
        # The process's own clock (clock_getcpuclockid(3)): /proc counts in hundredths of a second.
        return time.clock_gettime((~self._pid << 3) | 2)


@contextmanager
def running(factory: str, environment: Mapping[str, str]) -> Iterator[Server]:
    """uvicorn as in production: its access log off, the service's own log on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ESPALIER_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", factory, "--factory", "--port", str(port), "--no-access-log"],
        cwd=ROOT,
        env={**clean, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until_up(port)
        yield Server(port, process.pid)
    finally:
        process.kill()
        process.wait()


def wait_until_up(port: int) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise SystemExit("the server does not start")
