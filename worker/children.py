"""Child processes: a fresh one for each attempt, forked by the nursery (`nursery.py`), so that a start costs
milliseconds.

All die with the worker: their stdin ends, and the kernel's PDEATHSIG fires. That signal fires when the *thread* that
started the nursery ends, so one thread that lives as long as the worker starts it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import queue
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from worker.messages import MAX_LINE_BYTES, AnyMessage, BadMessage, parse, printable
from worker.nursery import PID_BYTES, die_with_parent

log = logging.getLogger(__name__)

ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/nonexistent",
    "OMP_NUM_THREADS": "1",
    "TORCHINDUCTOR_CACHE_DIR": "/",  # torch wants one at import, and else makes a folder of a known name in /tmp
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS then sums in one order; read when it starts
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "CUDA_CACHE_DISABLE": "1",  # one child could leave another compiled kernels of its own making
    "USE_PYTORCH_KERNEL_CACHE": "0",
    **{name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},  # where some keep libcuda.so.1
}
"""All that a child is told of the world: no settings, no secrets."""

STDERR_LINES = 40
ANSWER_SECONDS = 5.0
"""For the nursery to do as it is told; it takes milliseconds."""
PIPE_BYTES = 1 << 20
LAST_SECONDS = 5.0
"""Between the end of its messages and its own end."""
MAX_WAITING_MESSAGES = 16
"""Each may be megabytes. A child that says more waits; its progress fits into the pipe."""


class Exited:
    """The last thing heard of a child."""


class Forked:
    """A child of the nursery's, by the part of `subprocess.Popen`'s face that is needed here.

    It is asked for and not waited for: a nursery that has just been started may take longer than a lease. Of one that
    is dead it is a child that never was: its pipes are at their end.
    """

    def __init__(self, requests: socket.socket) -> None:
        self.returncode: int | None = None
        self._pid: int | None = None
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:

            def pipe(child_reads: bool) -> tuple[int, IO[bytes]]:
                read, write = os.pipe()
                there, here = (read, write) if child_reads else (write, read)
                theirs.callback(os.close, there)
                return there, ours.enter_context(os.fdopen(here, "wb" if child_reads else "rb"))

            stdin, self.stdin = pipe(True)
            messages, self.messages = pipe(False)
            stderr, self.stderr = pipe(False)
            self._control, control = socket.socketpair()
            ours.enter_context(self._control)
            theirs.enter_context(control)
            with contextlib.suppress(OSError, AttributeError):  # an order fits in before there is a child (Linux)
                fcntl.fcntl(stdin, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            try:
                socket.send_fds(requests, [b"+"], [stdin, messages, stderr, control.fileno()])
            except ConnectionError:
                self.returncode = -signal.SIGKILL
                self._control.close()
            ours.pop_all()

    @property
    def pid(self) -> int | None:
        """None where it is not forked yet, or could not be."""
        self.poll()
        return self._pid

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self._pid is None and self.returncode is None and (word := self._hear(PID_BYTES, timeout)):
            self._pid = int.from_bytes(word, "big")
        if self.returncode is None:
            code = self._hear(16, timeout) if self._pid is not None else b""
            if not code and self._pid is not None:  # the nursery has died, and the kernel kills its children
                _see_gone(self._pid)
            self.returncode = int(code) if code else -signal.SIGKILL
            self._control.close()
        return self.returncode

    def kill(self) -> None:
        """At once and for good; it is dead when this returns, whatever state the nursery is in."""
        if self.pid is None:  # it waits to be forked: the nursery, seeing this end closed, kills it then
            if self.returncode is None:
                self.returncode = -signal.SIGKILL
                self._control.close()
            return
        self.send_signal(signal.SIGKILL)
        try:
            self.wait(ANSWER_SECONDS)
        except subprocess.TimeoutExpired:  # a nursery that answers nobody reaps nobody: the number is still its own
            _see_gone(self.pid)
            self.returncode = -signal.SIGKILL
            self._control.close()

    def _hear(self, num_bytes: int, timeout: float | None) -> bytes:
        poller = select.poll()  # not select.select, which knows 1024 descriptors
        poller.register(self._control, select.POLLIN)
        if not poller.poll(None if timeout is None else 1000 * timeout):
            raise subprocess.TimeoutExpired("child", timeout or 0)
        try:
            return self._control.recv(num_bytes)
        except ConnectionError:
            return b""

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ConnectionError):
                self._control.send(bytes([number]))


def _see_gone(pid: int) -> None:
    """Kill who still leads the session of this number, which children do, and wait until nobody does (Linux)."""
    for _ in range(500):
        try:
            words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            state, session = words[0], int(words[3])
            if state in "ZX" or session != pid:
                return
            os.kill(pid, signal.SIGKILL)
        except OSError:
            return
        time.sleep(0.01)


class Child:
    """A process that does one piece of work. `messages` ends with Exited."""

    def __init__(self, process: Forked) -> None:
        self.process = process
        self.messages: queue.Queue[AnyMessage | BadMessage | Exited] = queue.Queue(MAX_WAITING_MESSAGES)
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

    def next_message(self, timeout_seconds: float) -> AnyMessage | BadMessage | Exited | None:
        """None: nothing was said in that time."""
        try:
            return self.messages.get(timeout=timeout_seconds)
        except queue.Empty:
            return None

    @property
    def has_begun(self) -> bool:
        """False where it is not forked yet, or never was."""
        return self.process.pid is not None

    def ask_to_stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)

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
        try:
            code = self.process.wait(LAST_SECONDS)
        except subprocess.TimeoutExpired:  # it closed its pipe and lives on: it could hold the slot for ever
            self.process.kill()
            code = self.process.wait()
        if not self.has_begun:
            return "the training process could not be started; the worker's log may say why"
        end = f"killed by {_signal_name(-code)}" if code < 0 else f"exit code {code}"
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
                        raise BadMessage(f"a message of more than {MAX_LINE_BYTES} bytes")
                    self.messages.put(parse(line))
                except BadMessage as error:
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
