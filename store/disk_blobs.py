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

from store.blobs import CHUNK_BYTES, NAME, BlobStore, Damaged, StoredBlob
from store.disk_parts import DiskPartWriter, locked, sync_folder
from store.parts import Goes_on, Part, PartWriter
from store.room import free_bytes, is_full, needing_folder, needing_room

OWNER = "owner"


class DiskBlobs(BlobStore):
    def __init__(self, root: Path, grace_seconds: float = 3600) -> None:
        super().__init__(grace_seconds)
        self.root = root
        self._incoming = root / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)

    def size_bytes(self, blob: StoredBlob) -> int:
        return self.path(blob.name).stat().st_size

    def read(self, blob: StoredBlob, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        with self.path(blob.name).open("rb", buffering=0) as file:
            stop = os.fstat(file.fileno()).st_size if stop is None else stop
            file.seek(start)
            while start < stop:
                piece = file.read(min(stop - start, CHUNK_BYTES))
                if not piece:
                    raise Damaged(f"blob {blob.digest} ends at byte {start}, sooner than it did")
                start += len(piece)
                yield piece

    def fetch(self, blob: StoredBlob, target: Path) -> None:
        """A hard link; a copy where hard links do not reach."""
        try:
            os.link(self.path(blob.name), target)
        except OSError:
            try:
                with needing_room():
                    shutil.copyfile(self.path(blob.name), target)
            except BaseException:
                target.unlink(missing_ok=True)
                raise

    def free_bytes(self) -> int:
        return free_bytes(self.root)

    def part_writer(self, last: Part | None, start_bytes: int, goes_on: Goes_on) -> PartWriter:
        return DiskPartWriter(self.path, last, start_bytes, goes_on, self.grace_seconds)

    def whole(self, part: Part, digest: str) -> StoredBlob | None:
        """A second name for the file; the first is the collector's once the upload is complete. None where its lock is
        taken, or hard links do not reach."""
        file = locked(self.path(part.name), part.size_bytes)
        if file is None:
            return None
        with file:
            file.truncate(part.size_bytes)
            blob = self.new_copy(digest, part.size_bytes)
            final = self.path(blob.name)
            self._make_folder(final.parent)
            try:
                os.fchmod(file.fileno(), 0o444)
                os.utime(file.fileno())
                os.fsync(file.fileno())
                os.link(file.name, final)
            except OSError as error:
                if is_full(error):
                    raise
                return None
            sync_folder(final.parent)
        return blob

    def owner(self, claimant: str) -> str:
        path = self.root / OWNER
        if not path.exists():
            # Written whole under another name, then linked: of two that claim it at once, one wins.
            mine = self._incoming / os.urandom(16).hex()
            mine.write_text(claimant)
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(mine)
            mine.unlink()
        return path.read_text()

    def old_names(self, shard: str, older_than_seconds: float) -> list[str]:
        old = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root / shard) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # another sweeper was faster
                    if NAME.fullmatch(entry.name) and time.time() - entry.stat().st_mtime > older_than_seconds:
                        old.append(entry.name)
        return old

    def remove(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)

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
        with needing_room(), needing_folder():
            return (self._incoming / os.urandom(16).hex()).open("xb")

    def keep(self, file: BinaryIO, name: str) -> None:
        with needing_folder():
            os.fchmod(file.fileno(), 0o444)
            os.utime(file.fileno())  # its age counts from here, however slowly it came
            os.fsync(file.fileno())
            final = self.path(name)
            self._make_folder(final.parent)
            Path(file.name).rename(final)
            sync_folder(final.parent)

    def drop(self, file: BinaryIO) -> None:
        with contextlib.suppress(OSError):  # where no room is left, what is still to be flushed fails once more
            file.close()
        with contextlib.suppress(OSError):  # gone already, or the folder is away: `clear_incoming` finds it later
            Path(file.name).unlink()

    def _make_folder(self, folder: Path) -> None:
        if not folder.exists():
            folder.mkdir(exist_ok=True)
            sync_folder(self.root)

    def path(self, name: str) -> Path:
        return self.root / name[:2] / name
