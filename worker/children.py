"""Child processes: a fresh one for each attempt, forked by the nursery (`nursery.py`), so that a start costs
milliseconds.

All die with the worker: their stdin ends, and the kernel's PDEATHSIG fires. That signal fires when the *thread* that
started the nursery ends, so one thread that lives as long as the worker starts it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from worker.forked import Forked
from worker.limits import MIB, OverLimit, message_too_long
from worker.messages import MAX_LINE_BYTES, AnyMessage, BadMessage, parse, printable
from worker.nursery import die_with_parent

log = logging.getLogger(__name__)

ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/nonexistent",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",  # a child has no network; packages of networks should not even try
    "TRANSFORMERS_OFFLINE": "1",
    "TORCHINDUCTOR_CACHE_DIR": "/",  # torch wants one at import, and else makes a folder of a known name in /tmp
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS then sums in one order; read when it starts
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "CUDA_CACHE_DISABLE": "1",  # one child could leave another compiled kernels of its own making
    "USE_PYTORCH_KERNEL_CACHE": "0",
    **{name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},  # where some keep libcuda.so.1
}
"""All that a child is told of the world: no settings, no secrets."""

STDERR_LINES = 40
LAST_SECONDS = 5.0
"""Between the end of its messages and its own end."""
MAX_WAITING_MESSAGES = 16
"""Each may be megabytes. A child that says more waits; its progress fits into the pipe."""


class Exited:
    """The last thing heard of a child."""


class Child:
    """A process that does one piece of work. `messages` ends with Exited."""

    def __init__(self, process: Forked) -> None:
        self.process = process
        self.messages: queue.Queue[AnyMessage | BadMessage | OverLimit | Exited] = queue.Queue(MAX_WAITING_MESSAGES)
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)
        self._readers = [
            threading.Thread(target=self._read_messages, args=(process.messages,), daemon=True),
            threading.Thread(target=self._read_stderr, args=(process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def order(self, order: dict[str, Any]) -> None:
        """The one piece of work. A child that is dead already is found out by its messages' end."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()

    def next_message(self, timeout_seconds: float) -> AnyMessage | BadMessage | OverLimit | Exited | None:
        """None: nothing was said in that time."""
        try:
            return self.messages.get(timeout=timeout_seconds)
        except queue.Empty:
            return None

    @property
    def has_begun(self) -> bool:
        """False where it is not forked yet, or never was."""
        return self.process.pid is not None

    def ask_to_stop(self, save: bool = True) -> None:
        """Between two steps: with a checkpoint of where it is, or at once."""
        self.process.send_signal(signal.SIGTERM if save else signal.SIGINT)

    def kill(self) -> None:
        """At once and for good; nothing of it is left when this returns."""
        self.process.kill()
        for _ in range(
            100 if self.has_begun else 0
        ):  # bounded: a pipe that something else still holds is left to its daemon thread
            if not any(reader.is_alive() for reader in self._readers):
                break
            with contextlib.suppress(queue.Empty):  # a reader may wait for room
                self.messages.get(timeout=0.02)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def last_words(self) -> str:
        """How it ended, for people: exit code or signal, and the end of what it wrote to stderr."""
        by_us = False
        try:
            code = self.process.wait(LAST_SECONDS)
        except subprocess.TimeoutExpired:  # it closed its pipe and lives on: it could hold the slot for ever
            self.process.kill()
            code, by_us = self.process.wait(), True
        if not self.has_begun:
            return "the training process could not be started; the worker's log may say why"
        end = f"killed by {_signal_name(-code)}" if code < 0 else f"exit code {code}"
        if code == -signal.SIGKILL and not by_us and self.process.peak_bytes:
            end += f", as the kernel does where memory runs out (peak: {self.process.peak_bytes // MIB} MiB resident)"
        self._readers[1].join(timeout=1)
        words = " | ".join(line.strip() for line in list(self._stderr)[-3:] if line.strip())
        return f"the training process ended with {end}" + (f": {printable(words[-300:])}" if words else "")

    def unlinked_bytes(self) -> int:
        """What it holds in files that no folder shows any more (Linux)."""
        total = 0
        if self.process.poll() is not None or not self.has_begun:
            return 0
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{self.process.pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    status = descriptor.stat()
                    if stat.S_ISREG(status.st_mode) and status.st_nlink == 0:
                        total += status.st_size
        return total

    def _read_messages(self, pipe: IO[bytes]) -> None:
        with pipe:
            while line := pipe.readline(MAX_LINE_BYTES + 1):
                try:
                    if len(line) > MAX_LINE_BYTES:
                        raise message_too_long()
                    self.messages.put(parse(line))
                except (BadMessage, OverLimit) as error:
                    self.messages.put(error)
                    break
        self.messages.put(Exited())

    def _read_stderr(self, pipe: IO[bytes]) -> None:
        with pipe:
            while line := pipe.readline(4096):
                self._stderr.append(line.decode(errors="replace"))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have none
        return f"signal {number}"


class Children:
    """Hands out children of one nursery, and starts another where that has died."""

    def __init__(self) -> None:
        self._spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")
        self._nursery: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    def warm_up(self) -> None:
        self._spawner.submit(self._start)

    def take(self) -> Child:
        """One that is being forked."""
        return self._spawner.submit(self._fork).result()

    @contextlib.contextmanager
    def lent(self) -> Iterator[Child]:
        """One for the `with`, killed at its end."""
        child = self.take()
        try:
            yield child
        finally:
            child.kill()

    def start_over(self) -> None:
        """With another nursery: this one does not fork. Its children die."""
        self._spawner.submit(self._end)
        self.warm_up()

    def close(self) -> None:
        self._spawner.submit(self._end)
        self._spawner.shutdown(wait=True)

    def _fork(self) -> Child:
        child = Child(Forked(self._start()))
        if child.process.returncode is not None:
            log.warning("the process that forks training processes has died; another is started")
            child.kill()
            self._end()
            child = Child(Forked(self._start()))
        return child

    def _start(self) -> socket.socket:
        if self._requests is None:
            self._requests, requests = socket.socketpair()
            with requests:
                self._nursery = subprocess.Popen(
                    [sys.executable, "-I", "-m", "worker.nursery", str(requests.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(requests.fileno(),),
                    env=ENVIRONMENT,
                    cwd="/",
                    start_new_session=True,
                    preexec_fn=die_with_parent,  # from the first moment: torch takes seconds to import
                )
        return self._requests

    def _end(self) -> None:
        if self._nursery is not None and self._requests is not None:
            self._requests.close()
            self._nursery.kill()  # its children have been lent to nobody by now, or die with it
            self._nursery.wait()
        self._nursery = self._requests = None
