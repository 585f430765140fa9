"""Content that comes in over many requests, until it is whole: parts, each under a name of its own.

A part lies where copies lie and is called as they are, by chance alone, so it is reached by every process that reaches
the blobs, and `collection.py` removes it as it does them. It counts once a row names it. **Nobody else writes what
somebody may still write**: a request begins a part of its own, or goes on with the last one where the store can tell
that whoever wrote it has let go.
"""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from store.blobs import BlobStore, StoredBlob, Vanishing
from store.room import needing_room


@dataclass(frozen=True)
class Part:
    name: str
    start_bytes: int
    size_bytes: int
    refer_by: float | None = None
    """Until when (`time.time()`) a row may come to name it; None: one does."""

    @property
    def stop_bytes(self) -> int:
        return self.start_bytes + self.size_bytes

    @property
    def copy(self) -> StoredBlob:
        """As the blob store reads it."""
        return StoredBlob(self.name, self.size_bytes, self.name)


class PartWriter(ABC):
    """One request's content. One call at a time, and `close` at the end."""

    @abstractmethod
    def write(self, piece: bytes) -> None:
        """Raises Full, Vanishing."""

    @abstractmethod
    def settle(self) -> Part:
        """Make durable what was written; the part that ends with it, to be counted. Raises BlobsAway, Full."""

    @abstractmethod
    def close(self) -> None:
        """Leave nothing that was never settled. What was settled and not counted is for the collector."""


Goes_on = Callable[[], bool]
"""Whether this request's turn is still the latest, asked while the part's lock is held."""


def new_name() -> str:
    return f"{secrets.token_hex(32)}-{secrets.token_hex(8)}"


class Youth:
    """What no row names must not grow old (`BlobStore.grace_seconds`): a collector would be right to take it."""

    def __init__(self, grace_seconds: float) -> None:
        self._seconds = grace_seconds / 2
        self._touched_at = time.time()

    def prolong(self) -> float:
        """At a write that makes the file young again; until when a row may name it."""
        if time.time() - self._touched_at > self._seconds:
            raise Vanishing("the part was left alone for too long")
        self._touched_at = time.time()
        return self._touched_at + self._seconds


class GatheredPartWriter(PartWriter):
    """For a store whose files cannot grow: each time, what was gathered on this machine becomes a part of its own."""

    def __init__(self, store: BlobStore, start_bytes: int) -> None:
        self._store, self._start = store, start_bytes
        self._file: BinaryIO | None = None

    def write(self, piece: bytes) -> None:
        self._file = self._file or self._store.begin()
        with needing_room():
            self._file.write(piece)

    def settle(self) -> Part:
        assert self._file is not None, "nothing was written"
        refer_by = time.time() + self._store.grace_seconds / 2  # from before: S3 dates an object by when it was begun
        name = new_name()
        with needing_room():
            self._file.flush()
            size_bytes = self._file.tell()
            self._store.keep(self._file, name)
        self.close()
        part = Part(name, self._start, size_bytes, refer_by)
        self._start = part.stop_bytes
        return part

    def close(self) -> None:
        if self._file is not None:
            self._store.drop(self._file)
            self._file = None
