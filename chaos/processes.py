"""Who runs, and whose child it is: read from /proc (Linux)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from pathlib import Path

_LIBC = ctypes.CDLL(None)  # loaded before any fork
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def children_of(pid: int) -> list[int]:
    """Processes that a process started and that still live (Linux)."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in task.read_text().split()]
    return found


def descendants_of(pid: int) -> list[int]:
    """Its children, and theirs: of a worker the nursery and its training processes."""
    return [one for child in children_of(pid) for one in (child, *descendants_of(child))]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def command_of(pid: int) -> str:
    """For people; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def adopt_orphans() -> None:
    """From now on, whoever loses its parent below this process becomes a child of it, and can be found."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Before exec. The signal comes when the parent's *thread* ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, number)


def kill(pid: int, number: int = signal.SIGKILL) -> bool:
    """False where it has ended already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
