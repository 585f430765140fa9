"""Blobs in a folder of this machine.

Not through obstore's LocalStore, which serves S3 here: it renames without syncing, so after a power cut a row could
refer to a file that is empty or gone; it knows no hard links; and it writes files that their owner may change. Here a
file is written beside its place, synced, made read-only and renamed, and its folder is synced, before any row refers
to it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from store.blobs import CHUNK_BYTES, BlobStore, Damaged


class DiskBlobs(BlobStore):
    def __init__(self, root: Path) -> None:
        self.root = root
        self._incoming = root / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)

    def size_bytes(self, digest: str) -> int:
        return self.path(digest).stat().st_size

    def read(self, digest: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        with self.path(digest).open("rb", buffering=0) as file:
            stop = os.fstat(file.fileno()).st_size if stop is None else stop
            file.seek(start)
            while start < stop:
                piece = file.read(min(stop - start, CHUNK_BYTES))
                if not piece:
                    raise Damaged(f"blob {digest} ends at byte {start}, sooner than it did")
                start += len(piece)
                yield piece

    def fetch(self, digest: str, target: Path) -> None:
        """A hard link; a copy where hard links do not reach."""
        try:
            os.link(self.path(digest), target)
        except OSError:
            shutil.copyfile(self.path(digest), target)

    def clear_incoming(self, older_than_seconds: float) -> int:
        cleared = 0
        for path in self._incoming.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another sweeper, or its writer, was faster
                if time.time() - path.stat().st_mtime > older_than_seconds:
                    path.unlink()
                    cleared += 1
        return cleared

    def ping(self) -> bool:
        return os.access(self._incoming, os.W_OK | os.X_OK)

    def begin(self) -> BinaryIO:
        return (self._incoming / os.urandom(16).hex()).open("xb")

    def keep(self, file: BinaryIO, digest: str) -> None:
        os.fchmod(file.fileno(), 0o444)
        os.fsync(file.fileno())
        final = self.path(digest)
        if not final.parent.exists():
            final.parent.mkdir(exist_ok=True)
            _sync_folder(self.root)
        Path(file.name).replace(final)  # the same content over the same content, if it was there
        _sync_folder(final.parent)

    def drop(self, file: BinaryIO) -> None:
        file.close()
        Path(file.name).unlink(missing_ok=True)

    def path(self, digest: str) -> Path:
        return self.root / digest[:2] / digest


def _sync_folder(folder: Path) -> None:
    """A rename survives a power cut only once its folder is synced."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
