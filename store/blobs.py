"""Content by its digest, behind a few verbs: put, read, fetch. One row per digest; whoever refers to a blob does so by
foreign key.

Where the bytes lie is for the settings to say: in a folder (`disk_blobs.py`) or in a bucket (`s3_blobs.py`). In both,
content comes in through a file of this machine, is digested on the way, and is under its name whole or not at all. The
row is touched under its lock in the transaction that will refer to it, so a collector never removes what is about to
be used.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from store.database import now
from store.settings import Settings
from store.tables import Blob

CHUNK_BYTES = 1 << 20


class TooLarge(Exception):
    """The content goes on past the limit."""


class Vanishing(Exception):
    """The blob is being collected at this moment: write it again."""


class BlobsAway(Exception):
    """The object store does not answer, or refuses: nothing was stored, and later it may be."""


class Damaged(OSError):
    """What lies under a digest is not the content of that digest."""


@dataclass(frozen=True)
class StoredBlob:
    digest: str
    size_bytes: int


def open_blobs(settings: Settings) -> BlobStore:
    """The store that `ESPALIER_BLOB_URL` names."""
    if settings.blob_bucket is None:
        from store.disk_blobs import DiskBlobs

        return DiskBlobs(settings.blob_dir)
    from store.s3_blobs import S3Blobs  # its library is loaded where it is used, and nowhere else

    return S3Blobs(*settings.blob_bucket, scratch=settings.data_dir / "incoming")


class BlobStore(ABC):
    """Safe to share between threads. Every verb may block: not for an event loop."""

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

    @abstractmethod
    def size_bytes(self, digest: str) -> int:
        """Raises FileNotFoundError."""

    @abstractmethod
    def read(self, digest: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Bytes `start` up to but not including `stop`, piece by piece. Raises FileNotFoundError, Damaged."""

    @abstractmethod
    def fetch(self, digest: str, target: Path) -> None:
        """The content as a file of this machine, for a process that may not see the store. Raises FileNotFoundError,
        Damaged; no `target` is there then."""

    @abstractmethod
    def clear_incoming(self, older_than_seconds: float) -> int:
        """Remove what writers that were killed have left half-written. How many."""

    @abstractmethod
    def ping(self) -> bool:
        """Whether it answers now; asked once, within seconds."""

    # For BlobWriter alone.

    @abstractmethod
    def begin(self) -> BinaryIO:
        """A file for what comes in."""

    @abstractmethod
    def keep(self, file: BinaryIO, digest: str) -> None:
        """Make what was written the content of `digest`: durable when this returns."""

    @abstractmethod
    def drop(self, file: BinaryIO) -> None:
        """Leave nothing of a file that `begin` gave; it may have been kept."""


class BlobWriter:
    """A blob on its way in. Leaving the `with` without `finish` leaves nothing."""

    def __init__(self, store: BlobStore, limit_bytes: int) -> None:
        self._store, self._limit = store, limit_bytes
        self._hash, self.size_bytes = hashlib.sha256(), 0
        self._file = store.begin()

    def __enter__(self) -> BlobWriter:
        return self

    def write(self, chunk: bytes) -> None:
        self.size_bytes += len(chunk)
        if self.size_bytes > self._limit:
            raise TooLarge(f"more than {self._limit} bytes")
        self._hash.update(chunk)
        self._file.write(chunk)

    def finish(self) -> StoredBlob:
        """Raises BlobsAway."""
        digest = self._hash.hexdigest()
        self._file.flush()
        self._store.keep(self._file, digest)
        return StoredBlob(digest, self.size_bytes)

    def __exit__(self, *_exc: object) -> None:
        self._store.drop(self._file)


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
