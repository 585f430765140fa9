"""Content by its digest, behind a few verbs: put, read, fetch. One row per digest; whoever refers to a blob does so by
foreign key.

Where the bytes lie is for the settings to say: in a folder (`disk_blobs.py`) or in a bucket (`s3_blobs.py`). In both,
content comes in through a file of this machine, is digested on the way, and is under its name whole or not at all.

**Every copy has a name of its own**, the digest and chance, and the row says which copy is the blob's. So a name is
written once, and once no row has it nobody ever writes it again: to remove it is safe at any later time, by anybody,
however long ago they decided to, and whatever is uploaded meanwhile. `collection.py` rests on it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sqlalchemy import select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from store.database import now
from store.room import BlobsAway as BlobsAway
from store.room import Full as Full
from store.room import needing_room
from store.settings import Settings
from store.tables import Blob, DiscardedCopy

if TYPE_CHECKING:
    from store.parts import Goes_on, Part, PartWriter

CHUNK_BYTES = 1 << 20
NAME = re.compile(r"[0-9a-f]{64}(-[0-9a-f]{16})?")
"""Of a copy. Whatever else lies in the store is not ours to remove."""


class TooLarge(Exception):
    """The content goes on past the limit."""


class Vanishing(Exception):
    """The copy is too old to be referred to, for a collector may take it: write it again."""


class Damaged(OSError):
    """What lies under a digest is not the content of that digest."""


@dataclass
class StoredBlob:
    """A copy of the content."""

    digest: str
    size_bytes: int
    name: str
    """Of this copy: no other one ever has it."""
    refer_by: float | None = field(default=None, compare=False)
    """Until when (`time.time()`) a row may come to name it; None: one does."""
    given_up: bool = field(default=False, compare=False)
    """Once it was found to be one too many, no row may come to name it: a collector may have removed it."""


def open_blobs(settings: Settings) -> BlobStore:
    """The store that `ESPALIER_BLOB_URL` names."""
    if settings.blob_bucket is None:
        from store.disk_blobs import DiskBlobs

        return DiskBlobs(settings.blob_dir, settings.blob_grace_seconds)
    from store.s3_blobs import S3Blobs  # its library is loaded where it is used, and nowhere else

    scratch = settings.data_dir / "incoming"
    return S3Blobs(*settings.blob_bucket, scratch=scratch, grace_seconds=settings.blob_grace_seconds)


class BlobStore(ABC):
    """Safe to share between threads. Every verb may block: not for an event loop."""

    def __init__(self, grace_seconds: float) -> None:
        """A copy that no row names is nobody's once it is this old. Writers refer to theirs within half of it, so that
        neither a transaction that hangs for a while nor clocks that differ by minutes matter."""
        self.grace_seconds = grace_seconds

    def writer(self, limit_bytes: int) -> BlobWriter:
        return BlobWriter(self, limit_bytes)

    def put(self, chunks: Iterable[bytes], limit_bytes: int) -> StoredBlob:
        """Store a stream, hashing while copying. Raises TooLarge past the limit, and Full; nothing is left then."""
        with self.writer(limit_bytes) as writer:
            for chunk in chunks:
                writer.write(chunk)
            return writer.finish()

    def put_file(self, file: BinaryIO, limit_bytes: int) -> StoredBlob:
        return self.put(iter(lambda: file.read(CHUNK_BYTES), b""), limit_bytes)

    @abstractmethod
    def size_bytes(self, blob: StoredBlob) -> int:
        """Raises FileNotFoundError."""

    @abstractmethod
    def read(self, blob: StoredBlob, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Bytes `start` up to but not including `stop`, piece by piece. Raises FileNotFoundError, Damaged."""

    @abstractmethod
    def fetch(self, blob: StoredBlob, target: Path) -> None:
        """The content as a file of this machine, for a process that may not see the store. Raises FileNotFoundError,
        Damaged, Full; no `target` is there then."""

    @abstractmethod
    def free_bytes(self) -> int:
        """Room for what comes in."""

    # For uploads that come in many parts.

    @abstractmethod
    def part_writer(self, last: Part | None, start_bytes: int, goes_on: Goes_on) -> PartWriter:
        """For what follows on the last part, or begins."""

    @abstractmethod
    def whole(self, part: Part, digest: str) -> StoredBlob | None:
        """A part that is all of the content, as a copy of it; None where that needs copying."""

    # For `collection.py` alone.

    @abstractmethod
    def owner(self, claimant: str) -> str:
        """Whose store this is: the first that ever asked."""

    @abstractmethod
    def old_names(self, shard: str, older_than_seconds: float) -> list[str]:
        """Of the copies whose digest begins with two such letters."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """It may be gone already."""

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
    def keep(self, file: BinaryIO, name: str) -> None:
        """Make what was written the copy of this name: durable, and new, when this returns."""

    @abstractmethod
    def drop(self, file: BinaryIO) -> None:
        """Leave nothing of a file that `begin` gave; it may have been kept."""

    def new_copy(self, digest: str, size_bytes: int) -> StoredBlob:
        """Its name, and from now on the time to refer to it."""
        refer_by = time.time() + self.grace_seconds / 2  # from before: S3 dates an object by when it was begun
        return StoredBlob(digest, size_bytes, f"{digest}-{secrets.token_hex(8)}", refer_by)


class BlobWriter:
    """A blob on its way in. Leaving the `with` without `finish` leaves nothing."""

    def __init__(self, store: BlobStore, limit_bytes: int) -> None:
        self._store, self._limit = store, limit_bytes
        self._hash, self.size_bytes = hashlib.sha256(), 0
        self._file = store.begin()

    def __enter__(self) -> BlobWriter:
        return self

    def write(self, chunk: bytes) -> None:
        """Raises TooLarge, Full."""
        self.size_bytes += len(chunk)
        if self.size_bytes > self._limit:
            raise TooLarge(f"more than {self._limit} bytes")
        self._hash.update(chunk)
        with needing_room():
            self._file.write(chunk)

    def finish(self) -> StoredBlob:
        """Raises BlobsAway, Full."""
        blob = self._store.new_copy(self._hash.hexdigest(), self.size_bytes)
        with needing_room():
            self._file.flush()
            self._store.keep(self._file, blob.name)
        return blob

    def __exit__(self, *_exc: object) -> None:
        self._store.drop(self._file)


def located(session: Session, digest: str) -> StoredBlob:
    """The copy that its row names. For a digest that a foreign key holds."""
    row = session.get_one(Blob, digest, populate_existing=True)
    return StoredBlob(digest, row.size_bytes, row.name)


def refer(session: Session, blob: StoredBlob) -> None:
    """Make sure that the blob's row exists and stays, before a foreign key to it is written. Raises Vanishing.

    The first copy stays the blob's, so that nobody who reads it is disturbed, and a later one is given up in the same
    transaction; but a copy that was found damaged gives way.
    """
    if blob.refer_by is not None and time.time() > blob.refer_by:
        raise Vanishing(blob.digest)
    row = _held(session, blob)
    if row.name == blob.name and blob.given_up:
        raise Vanishing(blob.digest)
    changed = {}
    if row.name != blob.name and blob.refer_by is not None:
        if row.suspect and not blob.given_up:
            discard(session, row.name)
            changed = {"name": blob.name, "suspect": False}
        else:
            discard(session, blob.name)
            blob.given_up = True
    session.execute(
        update(Blob)
        .where(Blob.digest == blob.digest)
        .values(touched_at=now(), **changed)
        .execution_options(synchronize_session=False)
    )


def _held(session: Session, blob: StoredBlob) -> Any:
    """The blob's row (name, suspect), locked until the transaction ends; made where there was none."""
    held = select(Blob.name, Blob.suspect).where(Blob.digest == blob.digest).with_for_update()
    for _ in range(3):
        session.execute(
            _insert(session, Blob)
            .values(digest=blob.digest, size_bytes=blob.size_bytes, name=blob.name, touched_at=now(), suspect=False)
            .on_conflict_do_nothing(index_elements=[Blob.digest])
        )
        if (row := session.execute(held).first()) is not None:
            return row
        # The insert met a row that was gone when it was to be locked: a collector was at it.
    raise Vanishing(blob.digest)


def discard(session: Session, name: str) -> None:
    """Give up a copy: whoever collects removes its file, after the transaction that no longer names it."""
    session.execute(_insert(session, DiscardedCopy).values(name=name).on_conflict_do_nothing())


def suspect(session: Session, blob: StoredBlob) -> None:
    """The copy was found damaged or missing: whoever brings the content again replaces it."""
    session.execute(
        update(Blob)
        .where(Blob.digest == blob.digest, Blob.name == blob.name)
        .values(suspect=True)
        .execution_options(synchronize_session=False)
    )


def _insert(session: Session, entity: type[Blob] | type[DiscardedCopy]) -> Any:
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    return dialect.insert(entity)
