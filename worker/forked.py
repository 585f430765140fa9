"""The worker's end of a process that the nursery forks: its pipes, and the socket that signals and reaps it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import IO

from worker.nursery import PID_BYTES

ANSWER_SECONDS = 5.0
"""For the nursery to do as it is told; it takes milliseconds."""
PIPE_BYTES = 1 << 20


class Forked:
    """A child of the nursery's, by the part of `subprocess.Popen`'s face that is needed here.

    It is asked for and not waited for: a nursery that has just been started may take longer than a lease. Of one that
    is dead it is a child that never was: its pipes are at their end.
    """

    def __init__(self, requests: socket.socket) -> None:
        self.returncode: int | None = None
        self.peak_bytes: int | None = None
        """Most that was resident at once; null until it has ended, and where nobody could tell."""
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
            end = self._hear(40, timeout).split() if self._pid is not None else []
            if not end and self._pid is not None:  # the nursery has died, and the kernel kills its children
                _see_gone(self._pid)
            self.returncode = int(end[0]) if end else -signal.SIGKILL
            self.peak_bytes = 1024 * int(end[1]) if end else None
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
