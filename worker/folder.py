"""The one folder that a child may write: `in/` holds its inputs, `out/` what it made. Its content is not trusted."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from store.blobs import BlobStore, StoredBlob, TooLarge
from worker.limits import too_many_files
from worker.sandbox import TEMPORARY

MAX_FILES = 1000


class BadFile(Exception):
    """What the child announced is not a regular file of its own folder, or too large."""


class Folder:
    """`root` is named `<row>-<attempt>`, so that an attempt can clear away what earlier ones left."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        self.root, self.max_bytes = root.resolve(), max_bytes
        self.inputs, self.outputs = self.root / "in", self.root / "out"

    def __enter__(self) -> Folder:
        for left in self.root.parent.glob(f"{self.root.name.rpartition('-')[0]}-*"):
            shutil.rmtree(left, ignore_errors=True)  # of earlier attempts whose worker was killed: fenced by now
        for folder in (self.inputs, self.outputs, self.outputs / TEMPORARY):
            folder.mkdir(parents=True, mode=0o700)
        return self

    def __exit__(self, *_exc: object) -> None:
        self.remove()

    def remove(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def store(self, name: str, blobs: BlobStore) -> StoredBlob:
        """Copy an announced file into the blob store, hashing what is copied.

        Never a rename: the child may still hold the file open and write to it. No link is followed, nothing but a
        regular file is read (a FIFO would block, a device would not end).
        """
        try:
            descriptor = os.open(self.outputs / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise BadFile(f"{name}: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise BadFile(f"{name} is not a regular file")
        with os.fdopen(descriptor, "rb") as file:
            try:
                return blobs.put_file(file, self.max_bytes)
            except TooLarge as error:
                raise BadFile(f"{name}: {error}") from error

    def discard(self, name: str) -> None:
        (self.outputs / name).unlink(missing_ok=True)

    def size_bytes(self) -> int:
        """What the child has written; links count as themselves. Raises OverLimit where there are too many files."""
        total, num_files = 0, 0
        for parent, _folders, files in os.walk(self.outputs):
            num_files += len(files)
            if num_files > MAX_FILES:
                raise too_many_files(MAX_FILES)
            for name in files:
                try:
                    total += (Path(parent) / name).lstat().st_size
                except FileNotFoundError:
                    continue  # the child moves its own files as it likes
        return total
