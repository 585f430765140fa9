"""Where children come from: a process that has imported what they need, and forks. `python -I -m worker.nursery FD`.

Importing torch and its compiler takes a core for seconds, forking a process that has done so takes milliseconds. The
nursery has computed nothing (children forked after torch has computed hang, and could not use CUDA), has one thread,
and knows no order, no input and no secret. What its children have in common that started ones would not: the layout of
addresses, the secrets of Python's hashes and of the stack's guards.

Only the nursery signals and reaps its children: no signal goes to a number that may be another's by now.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import selectors
import signal
import socket
import sys
from collections.abc import Iterable
from pathlib import Path

_LIBC = ctypes.CDLL(None)  # loaded before any fork
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
NUM_DESCRIPTORS = 4
PID_BYTES = 8


def die_with_parent() -> None:
    """The kernel's help for workers that are killed outright (Linux). It fires when the parent's *thread* ends."""
    if sys.platform == "linux":
        _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Nursery:
    """
    A request is one byte with four descriptors: the child's stdin, messages, stderr, and its control, a socket. On it
    the nursery writes the child's number, then, when it has ended, its exit code and its resident peak in KiB, in
    digits; what it reads there are numbers of signals, one a byte. A control that is closed kills its child.
    """

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._controls: dict[int, socket.socket] = {}
        self._woken, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in _STOPS:  # whoever stops all processes of a service stops its children between two steps
            signal.signal(number, signal.SIG_IGN)
        self._selector = selectors.DefaultSelector()
        self._selector.register(requests, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)

    def serve(self) -> int | None:
        """Returns in each child, the descriptor for its messages; in the nursery when the worker has gone, None."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._requests:
                    asked, descriptors, _, _ = socket.recv_fds(self._requests, 1, NUM_DESCRIPTORS)
                    if not asked:
                        return None
                    if len(descriptors) != NUM_DESCRIPTORS:  # no room for them: whoever asked sees them closed
                        _close(descriptors)
                    elif (messages := self._fork(*descriptors)) is not None:
                        return messages
                elif key.fileobj is self._woken:
                    self._woken.recv(4096)
                    self._reap()
                else:
                    self._obey(key.data)

    def _fork(self, stdin: int, messages: int, stderr: int, control: int) -> int | None:
        nursery = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)  # an order that comes before the child hears it must wait
        try:
            pid = os.fork()
        except OSError as error:  # no memory, no numbers left: the children that there are live on
            print(f"nursery: {error}", file=sys.stderr, flush=True)
            _close([stdin, messages, stderr, control])
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
            return None
        if pid == 0:
            die_with_parent()
            if os.getppid() != nursery:
                os._exit(1)  # it died before the kernel was asked
            os.setsid()
            self._leave()
            os.dup2(stdin, 0)  # its stdout is the nursery's, which is nowhere
            os.dup2(stderr, 2)
            _close([stdin, stderr, control])
            return messages
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        _close([stdin, messages, stderr])
        self._controls[pid] = socket.socket(fileno=control)
        self._selector.register(self._controls[pid], selectors.EVENT_READ, pid)
        self._say(pid, pid.to_bytes(PID_BYTES, "big"))
        return None

    def _leave(self) -> None:
        """Of the nursery's own a child keeps nothing: whoever held a sibling's control could signal it."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, *_STOPS):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        with contextlib.suppress(OSError):  # out of memory, one child goes, not all with their nursery (Linux)
            Path("/proc/self/oom_score_adj").write_text("300")
        self._selector.close()
        for inherited in (self._requests, self._woken, self._waker, *self._controls.values()):
            inherited.close()

    def _obey(self, pid: int) -> None:
        if pid not in self._controls:
            return  # reaped since the selector looked
        try:
            numbers = self._controls[pid].recv(16)
        except ConnectionError:
            numbers = b""
        for number in numbers or [signal.SIGKILL]:
            os.kill(pid, number)

    def _reap(self) -> None:
        while self._controls:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return
            pid = ended.si_pid
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # should it have had children: while it is not reaped the group is its
            _, status, used = os.wait4(pid, 0)
            self._say(pid, f"{os.waitstatus_to_exitcode(status)} {used.ru_maxrss}".encode())
            control = self._controls.pop(pid)
            self._selector.unregister(control)
            control.close()

    def _say(self, pid: int, words: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # nobody waits for it any more
            self._controls[pid].sendall(words)


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def main() -> None:
    requests = socket.socket(fileno=int(sys.argv[1]))
    from worker import runner  # the worker, which imports this module, must not import torch

    runner.prepare()
    if sys.platform == "linux" and len(list(Path("/proc/self/task").iterdir())) != 1:
        sys.exit("nursery: an import has started a thread, which no child would have")
    gc.collect()
    gc.freeze()  # what is not looked at by a child's collector stays shared
    messages = Nursery(requests).serve()
    if messages is not None:
        runner.main(messages)


if __name__ == "__main__":
    main()
