"""Content by its digest, on disk: put, open, link. One row per digest; whoever refers to a blob does so by foreign key.

A file is written beside its place, synced, and renamed: it exists whole or not at all. The row is touched under its
lock in the transaction that will refer to it, so a collector never removes what is about to be used.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from store.database import now
from store.tables import Blob

CHUNK_BYTES = 1 << 20


class TooLarge(Exception):
    """The content goes on past the limit."""


class Vanishing(Exception):
    """The blob is being collected at this moment: write it again."""


@dataclass(frozen=True)
class StoredBlob:
    digest: str
    size_bytes: int


class BlobStore:
    def __init__(self, root: Path) -> None:
        self.root = root
        self._incoming = root / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)

    def writer(self, limit_bytes: int) -> BlobWriter:
        return BlobWriter(self, limit_bytes)

    def put(self, chunks: Iterable[bytes], limit_bytes: int) -> StoredBlob:
        """Store a stream, hashing while copying. Raises TooLarge past the limit; nothing is left then."""
        with self.writer(limit_bytes) as writer:
            for chunk in chunks:
                writer.write(chunk)
            return writer.finish()

    def put_file(self, file: BinaryIO, limit_bytes: int) -> StoredBlob:
        return self.put(iter(lambda: file.read(CHUNK_BYTES), b""), limit_bytes)

    def open(self, digest: str) -> BinaryIO:
        return self.path(digest).open("rb")

    def link(self, digest: str, target: Path) -> None:
        """The content under another name on this machine, for a process that may not see the store: its own copy
        where hard links do not reach."""
        try:
            os.link(self.path(digest), target)
        except OSError:
            shutil.copyfile(self.path(digest), target)

    def clear_incoming(self, older_than_seconds: float) -> int:
        """Remove what writers that were killed have left half-written. How many."""
        cleared = 0
        for path in self._incoming.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another sweeper, or its writer, was faster
                if time.time() - path.stat().st_mtime > older_than_seconds:
                    path.unlink()
                    cleared += 1
        return cleared

    def path(self, digest: str) -> Path:
        return self.root / digest[:2] / digest


class BlobWriter:
    """A blob on its way in. Leaving the `with` without `finish` leaves nothing."""

    def __init__(self, store: BlobStore, limit_bytes: int) -> None:
        self._store, self._limit = store, limit_bytes
        self._hash, self.size_bytes = hashlib.sha256(), 0
        self._path = store._incoming / os.urandom(16).hex()
        self._file = self._path.open("xb")

    def __enter__(self) -> BlobWriter:
        return self

    def write(self, chunk: bytes) -> None:
        self.size_bytes += len(chunk)
        if self.size_bytes > self._limit:
            raise TooLarge(f"more than {self._limit} bytes")
        self._hash.update(chunk)
        self._file.write(chunk)

    async def write_all(self, chunks: AsyncIterator[bytes]) -> None:
        async for chunk in chunks:
            self.write(chunk)

    def finish(self) -> StoredBlob:
        digest = self._hash.hexdigest()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._path.chmod(0o444)
        final = self._store.path(digest)
        if not final.parent.exists():
            final.parent.mkdir(exist_ok=True)
            _sync_folder(self._store.root)
        self._path.replace(final)  # the same content over the same content, if it was there
        _sync_folder(final.parent)
        return StoredBlob(digest, self.size_bytes)

    def __exit__(self, *_exc: object) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """A rename survives a power cut only once its folder is synced."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refer(session: Session, blob: StoredBlob) -> None:
    """Make sure that the blob's row exists and stays, before a foreign key to it is written. Raises Vanishing."""
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    session.execute(
        dialect.insert(Blob)
        .values(digest=blob.digest, size_bytes=blob.size_bytes, touched_at=now())
        .on_conflict_do_nothing(index_elements=[Blob.digest])
    )
    touched = session.execute(
        update(Blob)
        .where(Blob.digest == blob.digest, Blob.deleting.is_(False))
        .values(touched_at=now())
        .returning(Blob.digest)
        .execution_options(synchronize_session=False)
    ).scalar()
    if touched is None:
        raise Vanishing(blob.digest)
