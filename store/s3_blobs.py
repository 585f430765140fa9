"""Blobs in a bucket of S3, or of what speaks its language.

The digest is in the object's name and known only at the end: what comes in is gathered in a file without a name on
this machine, then sent under its final key. So the bucket never sees an upload that breaks off, needs no temporary
keys, no copies on its side and no conditional puts, and a writer that is killed leaves no file. An object appears whole
or not at all, in one PUT or, past PART_BYTES, in a multipart upload; one whose sender is killed stays invisible until
the bucket's own rule for incomplete uploads removes it (`docs/deploy.md`), because no program can list them with the
rights that reading and writing objects take. Every request is signed over the sha256 of its body, so the server
refuses what was changed on the way there.

Reading takes many short requests: none is held open while a slow client takes its time, and each is retried by itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from store.blobs import NAME, BlobStore, Damaged, StoredBlob
from store.parts import GatheredPartWriter, Goes_on, Part, PartWriter
from store.room import BlobsAway, free_bytes, needing_room

log = logging.getLogger(__name__)

PIECE_BYTES = 4 << 20
"""Of one request that reads."""
PART_BYTES = 8 << 20
"""Of one request that writes; S3 takes 10,000 of them, so 80 GB."""
PARTS_AT_ONCE = 3

CONNECT_SECONDS = 3
REQUEST_SECONDS = 60
RETRIES = 4
RETRY_SECONDS = 10
PING_SECONDS = 2
OWNER = "owner"


class S3Blobs(BlobStore):
    """Credentials, region and endpoint come from AWS's own environment variables (`AWS_ACCESS_KEY_ID`, ...), or from
    the machine's role."""

    def __init__(self, bucket: str, prefix: str, scratch: Path, grace_seconds: float) -> None:
        """`scratch` is a folder of this machine for what comes in."""
        super().__init__(grace_seconds)
        scratch.mkdir(parents=True, exist_ok=True)
        self._scratch = scratch
        self._objects = _open(bucket, prefix, REQUEST_SECONDS, RETRIES)
        self._asked_once = _open(bucket, prefix, PING_SECONDS, 0)

    def size_bytes(self, blob: StoredBlob) -> int:
        with self._finding():
            return obstore.head(self._objects, _key(blob.name))["size"]

    def read(self, blob: StoredBlob, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        stop = self.size_bytes(blob) if stop is None else stop
        while start < stop:
            end = min(start + PIECE_BYTES, stop)
            with self._finding():
                piece = bytes(obstore.get_range(self._objects, _key(blob.name), start=start, end=end))
            if len(piece) != end - start:
                raise Damaged(f"blob {blob.digest} ends at byte {start + len(piece)}, sooner than it did")
            yield piece
            start = end

    def fetch(self, blob: StoredBlob, target: Path) -> None:
        hashed = hashlib.sha256()
        try:
            with needing_room(), target.open("xb") as file:
                for piece in self.read(blob):
                    hashed.update(piece)
                    file.write(piece)
                os.fchmod(file.fileno(), 0o444)
            if hashed.hexdigest() != blob.digest:
                raise Damaged(f"blob {blob.digest} is damaged: what lies there has sha256 {hashed.hexdigest()}")
        except BaseException:
            target.unlink(missing_ok=True)
            raise

    def free_bytes(self) -> int:
        """Of the folder that uploads pass through; the bucket has room."""
        return free_bytes(self._scratch)

    def part_writer(self, last: Part | None, start_bytes: int, goes_on: Goes_on) -> PartWriter:  # noqa: ARG002
        return GatheredPartWriter(self, start_bytes)

    def whole(self, part: Part, digest: str) -> StoredBlob | None:  # noqa: ARG002 - an object has one name
        return None

    def owner(self, claimant: str) -> str:
        """Of two that claim it within the same moment both may be told that it is theirs, once: S3's conditional puts
        are not everywhere."""
        try:
            with self._finding():
                return bytes(obstore.get(self._objects, OWNER).bytes()).decode()
        except FileNotFoundError:
            with _answering():
                obstore.put(self._objects, OWNER, claimant.encode())
            return claimant

    def old_names(self, shard: str, older_than_seconds: float) -> list[str]:
        latest = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
        with _answering():
            found = [meta for page in obstore.list(self._objects, shard) for meta in page]
        names = ((meta["path"].rpartition("/")[2], meta["last_modified"]) for meta in found)
        return [name for name, at in names if NAME.fullmatch(name) and at < latest]

    def remove(self, name: str) -> None:
        with _answering():
            obstore.delete(self._objects, _key(name))

    def clear_incoming(self, older_than_seconds: float) -> int:  # noqa: ARG002 - there is nothing of any age
        return 0

    def ping(self) -> bool:
        try:
            with _answering():
                next(iter(obstore.list(self._asked_once, "none/")), None)  # no digest begins so: a short answer
        except BlobsAway as error:
            log.warning("%s", error)
            return False
        return True

    @contextmanager
    def _finding(self) -> Iterator[None]:
        """Of an object that is not there, ask whether its bucket is: without it nothing can be told of any object."""
        try:
            with _answering():
                yield
        except FileNotFoundError as error:
            if not self.ping():
                raise BlobsAway("the bucket does not exist, or does not answer") from error
            raise

    def begin(self) -> BinaryIO:
        with needing_room():
            return tempfile.TemporaryFile(dir=self._scratch)

    def keep(self, file: BinaryIO, name: str) -> None:
        file.seek(0)
        try:
            with _answering():
                obstore.put(self._objects, _key(name), file, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)
        except FileNotFoundError as error:
            raise BlobsAway("the bucket does not exist") from error

    def drop(self, file: BinaryIO) -> None:
        with contextlib.suppress(OSError):  # where no room is left, what is still to be flushed fails once more
            file.close()


def _open(bucket: str, prefix: str, request_seconds: int, retries: int) -> S3Store:
    return S3Store(
        bucket,
        prefix=prefix or None,
        client_options={
            # Options given here hide the variable of this name.
            "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes"),
            "connect_timeout": timedelta(seconds=min(CONNECT_SECONDS, request_seconds)),
            "timeout": timedelta(seconds=request_seconds),
        },
        retry_config={"max_retries": retries, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
    )


def _key(name: str) -> str:
    return f"{name[:2]}/{name}"


@contextmanager
def _answering() -> Iterator[None]:
    """What goes wrong between us and the server, as BlobsAway; an object that is not there stays FileNotFoundError."""
    try:
        yield
    except BaseError as error:
        raise BlobsAway(f"the object store does not answer: {str(error).partition(chr(10))[0]}") from error
