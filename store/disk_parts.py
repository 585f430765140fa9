"""Parts as files: usually a single one for each upload, which grows and in the end becomes the blob, uncopied.

Whoever writes a file holds its lock (flock, let go when the process dies). A request that finds the last part locked,
because an earlier request hangs somewhere, begins another file; then the whole is put together by copying. Why a file
is never cut or written by two: only a request whose turn is the latest counts bytes, and it looks at its turn while it
holds the lock. Who finds its turn gone leaves the file as it is; who finds it there knows that no byte was counted
since it was given the turn, and later turns find the lock taken.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from io import FileIO
from pathlib import Path

from store.parts import Goes_on, Part, PartWriter, Youth, new_name
from store.room import needing_folder, needing_room


class DiskPartWriter(PartWriter):
    def __init__(
        self, path: Callable[[str], Path], last: Part | None, start: int, goes_on: Goes_on, grace_seconds: float
    ) -> None:
        self._youth: Youth | None = None
        """None: a row names the part, so that it may be of any age."""
        self._has_settled = False
        file = last and locked(path(last.name), last.size_bytes)
        if last and file:
            if goes_on():
                file.truncate(last.size_bytes)
                file.seek(last.size_bytes)
                self._file, self._part = file, last
                return
            file.close()
        self._part = Part(new_name(), start, 0)
        self._youth = Youth(grace_seconds)
        with needing_room(), needing_folder():
            self._folder = path(self._part.name).parent
            self._folder.mkdir(exist_ok=True)
            self._file = path(self._part.name).open("xb", buffering=0)
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def write(self, piece: bytes) -> None:
        left = memoryview(piece)
        if self._youth:
            self._youth.prolong()
        with needing_room():
            while left:
                left = left[self._file.write(left) :]

    def settle(self) -> Part:
        refer_by = None
        if self._youth:
            refer_by = self._youth.prolong()
            os.utime(self._file.fileno())
        with needing_room():
            os.fsync(self._file.fileno())
            if self._youth and not self._has_settled:
                sync_folder(self._folder)
                sync_folder(self._folder.parent)
        self._has_settled = True
        return Part(self._part.name, self._part.start_bytes, self._file.tell(), refer_by)

    def close(self) -> None:
        if self._youth and not self._has_settled:
            Path(self._file.name).unlink(missing_ok=True)
        self._file.close()


def locked(path: Path, least_bytes: int) -> FileIO | None:
    """The file, locked; None where somebody holds it, or it is not what was counted."""
    try:
        with contextlib.suppress(PermissionError):
            return _locked(path.open("r+b", buffering=0), least_bytes)
        path.chmod(0o644)  # it was to become a blob, and its process was killed before the row said so
        return _locked(path.open("r+b", buffering=0), least_bytes)
    except FileNotFoundError:
        return None


def _locked(file: FileIO, least_bytes: int) -> FileIO | None:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_size >= least_bytes:
            return file
    file.close()
    return None


def sync_folder(folder: Path) -> None:
    """A name survives a power cut only once its folder is synced."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
