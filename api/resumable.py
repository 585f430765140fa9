"""Content on its way into a resumable upload: counted while it comes, and put together when all of it is there.

What has come is made durable and counted every few seconds, at the end of the request, and where the connection is
cut; so what a client is told to have sent would survive a power cut, and a killed server loses the last few seconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from api.problems import Problem
from api.services import Services
from api.upload_headers import Said, inconsistent_length, too_large
from store import uploads
from store.blobs import CHUNK_BYTES, Damaged, StoredBlob, TooLarge
from store.parts import Part, PartWriter
from store.uploads import Superseded, Turn

COUNT_BYTES, COUNT_SECONDS, COUNT_AT_LEAST_EVERY_SECONDS = 8 << 20, 2.0, 60.0
"""What has come is counted once it is as much as this and this long ago; or this long ago, however little it is."""


async def arrive(request: Request, services: Services, turn: Turn, said: Said, length_bytes: int | None) -> int:
    """The request's content into the upload, and where it says so, its end; the new offset. Raises Problem."""
    most_bytes = services.settings.max_upload_bytes if length_bytes is None else length_bytes
    arrival = Arrival(services, turn, said, most_bytes)
    receiving = asyncio.create_task(drained(request.stream(), arrival.write))
    with services.underway.registered(turn.upload_id, receiving):
        try:
            await _received(receiving, arrival)
            await run_in_threadpool(arrival.count)
            if said.complete:
                if length_bytes not in (None, arrival.stop_bytes):
                    raise inconsistent_length(f"the upload ends at byte {arrival.stop_bytes}, not at {length_bytes}")
                await run_in_threadpool(arrival.complete)
        except TooLarge:
            await run_in_threadpool(drop, services, turn.upload_id)
            raise too_large(services.settings, most_bytes) from None
        except Superseded:
            raise superseded(turn.upload_id) from None
        finally:
            await run_in_threadpool(arrival.close)
    return arrival.stop_bytes


async def _received(receiving: asyncio.Task[None], arrival: Arrival) -> None:
    """Where the connection is cut, or a later request has this one let go, what came counts. Raises Superseded."""
    try:
        await receiving
    except (ClientDisconnect, asyncio.CancelledError) as cut:
        await run_in_threadpool(arrival.count_what_came)
        current = asyncio.current_task()
        if isinstance(cut, ClientDisconnect) or (current is not None and current.cancelling()):
            raise
        raise Superseded from None


def superseded(upload_id: str) -> Problem:
    return Problem("superseded", f"a later request has {upload_id}, or deleted it; ask for its offset with HEAD")


def drop(services: Services, upload_id: str) -> None:
    with services.database.transaction() as session:
        uploads.drop(session, upload_id)


async def drained(chunks: AsyncIterator[bytes], write: Callable[[bytes], None]) -> None:
    """`write` each piece in a thread, one at a time, while the next one is gathered. What came before a cut is written,
    too."""
    writing: asyncio.Future[None] | None = None
    try:
        async for piece in _pieces(chunks):
            if writing is not None:
                await asyncio.shield(writing)  # a cancelled task must not leave the thread to itself
            writing = asyncio.ensure_future(run_in_threadpool(write, piece))
    finally:
        if writing is not None:
            await writing


async def _pieces(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The stream in pieces of CHUNK_BYTES or a little more, the last one perhaps less; none is empty."""
    gathered: list[bytes] = []
    num_bytes = 0
    cut: BaseException | None = None
    try:
        async for chunk in chunks:
            gathered.append(chunk)
            num_bytes += len(chunk)
            if num_bytes >= CHUNK_BYTES:
                yield b"".join(gathered)
                gathered, num_bytes = [], 0
    except (ClientDisconnect, asyncio.CancelledError) as error:
        cut = error
    if num_bytes:
        yield b"".join(gathered)
    if cut is not None:
        raise cut


class Arrival:
    """One request's content. Every method blocks; one call at a time."""

    def __init__(self, services: Services, turn: Turn, said: Said, most_bytes: int) -> None:
        self._services, self._turn, self._said, self._most_bytes = services, turn, said, most_bytes
        self._expiry_seconds = services.settings.upload_expiry_hours * 3600
        self.stop_bytes = self._counted_bytes = turn.offset_bytes
        self._counted_at = time.monotonic()
        self._writer: PartWriter | None = None
        self._whole_hash = services.hashes.take(turn.upload_id, turn.offset_bytes)
        """None: it was begun elsewhere, so that the content is to be read again."""
        self._content_hash = hashlib.sha256() if said.content_digest else None

    def write(self, piece: bytes) -> None:
        """Raises TooLarge, Superseded, Full."""
        if self.stop_bytes + len(piece) > self._most_bytes:
            raise TooLarge(f"more than {self._most_bytes} bytes")
        if self._writer is None:
            self._writer = self._services.blobs.part_writer(self._turn.last, self.stop_bytes, self._goes_on)
        for hash in (self._whole_hash, self._content_hash):
            if hash is not None:
                hash.update(piece)
        self._writer.write(piece)
        self.stop_bytes += len(piece)
        if self._content_hash is None and self._is_due():
            self._count()

    def _goes_on(self) -> bool:
        with self._services.database.reading() as session:
            return uploads.has_turn(session, self._turn)

    def _is_due(self) -> bool:
        seconds = time.monotonic() - self._counted_at
        is_much = self.stop_bytes - self._counted_bytes >= COUNT_BYTES
        return (is_much and seconds >= COUNT_SECONDS) or seconds >= COUNT_AT_LEAST_EVERY_SECONDS

    def count(self) -> None:
        """At the end of the request: all of it. Raises Problem where it is not what its digest says."""
        if self._content_hash is not None and self._content_hash.hexdigest() != self._said.content_digest:
            self._whole_hash = None
            raise Problem(
                "digest_mismatch",
                f"this content has the sha256 {self._content_hash.hexdigest()}, and is not counted; send it again",
                param="header:content-digest",
            )
        self._count()

    def count_what_came(self) -> None:
        """Where the connection was cut. Of content with a digest of its own all counts or nothing."""
        if self._content_hash is None:
            self._count()

    def _count(self) -> None:
        if self.stop_bytes == self._counted_bytes:
            return
        assert self._writer is not None
        part = self._writer.settle()
        with self._services.database.transaction() as session:
            uploads.count(session, self._turn, part, self._expiry_seconds)
        self._counted_bytes, self._counted_at = self.stop_bytes, time.monotonic()

    def complete(self) -> None:
        """Raises Superseded, and Problem where the whole is not what its digest says."""
        with self._services.database.transaction() as session:
            parts = uploads.close(session, self._turn, self.stop_bytes)
        if self._writer is not None:
            self._writer.close()  # lets go of the file, which may become the blob
        try:
            blob = self._whole(parts)
        except (FileNotFoundError, Damaged):
            self._found_missing()
            return
        promised = {self._turn.expected_digest, self._said.repr_digest} - {None, blob.digest}
        if promised:
            drop(self._services, self._turn.upload_id)
            raise Problem(
                "digest_mismatch",
                f"the whole has the sha256 {blob.digest}, not {promised.pop()}; the upload is gone, begin another",
                param="header:repr-digest",
                headers={"Upload-Complete": "?1"},
            )
        with self._services.database.transaction() as session:
            uploads.complete(session, self._turn.upload_id, blob, self._expiry_seconds)
        self._whole_hash = None

    def _whole(self, parts: list[Part]) -> StoredBlob:
        blobs = self._services.blobs
        if len(parts) == 1:
            hash = self._whole_hash or hashlib.sha256()
            if self._whole_hash is None:
                for piece in blobs.read(parts[0].copy, 0, parts[0].size_bytes):
                    hash.update(piece)
            if (blob := blobs.whole(parts[0], hash.hexdigest())) is not None:
                return blob
        with blobs.writer(self._most_bytes) as writer:
            for part in parts:
                for piece in blobs.read(part.copy, 0, part.size_bytes):
                    writer.write(piece)
            return writer.finish()

    def _found_missing(self) -> None:
        """Another request has put the whole together meanwhile, and its parts are gone; or they are lost."""
        with self._services.database.transaction() as session:
            if uploads.is_complete(session, self._turn.upload_id):
                return
            uploads.drop(session, self._turn.upload_id)
        raise Problem("digest_mismatch", "a part of the upload was lost; the upload is gone, begin another")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._whole_hash is not None and self.stop_bytes == self._counted_bytes:
            self._services.hashes.keep(self._turn.upload_id, self.stop_bytes, self._whole_hash)
