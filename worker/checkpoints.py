"""The checkpoints of one attempt at a job: the one it is to take up, and those that its child announces.

None of them is worth the attempt: what cannot be fetched, copied or taken up is done without.
"""

from __future__ import annotations

import hashlib
import logging
import time
from functools import partial
from typing import Any

from sqlalchemy.orm import Session

from store import checkpoints, jobs
from store.blobs import BlobsAway, BlobStore, Damaged, StoredBlob, refer
from store.tables import Checkpoint, Job
from worker.folder import Folder
from worker.lease import Lease
from worker.messages import BadMessage, Checkpointed, NotResumed, Resumed
from worker.storing import fetch, store_files

log = logging.getLogger(__name__)

INPUT = "checkpoint"
MOST_OFTEN = 0.5
"""Of the time between two: what comes sooner is dropped, for a child that is not trusted would fill the store."""


class Checkpoints:
    def __init__(self, job: Job, lease: Lease, folder: Folder, blobs: BlobStore, every_seconds: float) -> None:
        self._job, self._lease, self._folder, self._blobs = job, lease, folder, blobs
        self._every_seconds = every_seconds
        self._named: Checkpoint | None = None
        self._last = (0, 0)
        self._next_at = 0.0
        self._progress_from = time.monotonic() + MOST_OFTEN * every_seconds
        """What is saved earlier is no progress: a child that makes up a step more each time, and dies, would be tried
        again for ever, several times a second."""

    def fetch(self, position: int) -> bool:
        """Put the checkpoint of the entry at `position` among the child's inputs; whether there is one."""
        found = self._lease.write(lambda session: checkpoints.find(session, self._job.id, position))
        if found is None:
            return False
        if self._job.failures >= 2 and self._job.failures + 1 >= self._job.max_failures:
            self._ignore(found, f"the last {self._job.failures} attempts got no further, and this one is the last")
            return False
        try:
            self._fetch(found.blob_digest)
        except (FileNotFoundError, Damaged):
            self._ignore(found, "its content is lost")
            return False
        self._named = found
        return True

    def take(self, message: Checkpointed | Resumed | NotResumed) -> None:
        """Raises BadMessage out of turn."""
        if isinstance(message, Checkpointed):
            self._take(message)
            return
        named, self._named = self._named, None
        if named is None:
            raise BadMessage(f"the message {message.type} is out of turn")
        if isinstance(message, NotResumed):
            self._ignore(named, message.reason)
        else:
            self._remark("checkpoint.resumed", named)

    def _take(self, made: Checkpointed) -> None:
        at = (made.position, made.step)
        if at < self._last:
            raise BadMessage("the message checkpointed goes back")
        self._last = at
        if self._lease.is_to_end or time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + MOST_OFTEN * self._every_seconds
            try:
                store_files(
                    self._lease,
                    self._folder,
                    self._blobs,
                    {INPUT: made.file},
                    partial(self._record, made),
                    patience_seconds=0,
                )
            except (BlobsAway, OSError) as error:
                log.warning("%s attempt %d: no checkpoint: %s", self._job.id, self._job.attempt, error)
        self._folder.discard(made.file)

    def _fetch(self, digest: str) -> None:
        """A bit that has turned would go on into every round. Raises Damaged, FileNotFoundError."""
        target = self._folder.inputs / INPUT

        def check() -> None:
            with target.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    raise Damaged(digest)

        fetch(self._lease, self._blobs, digest, target)
        self._lease.keep_while(check)  # gigabytes take seconds

    def _record(self, made: Checkpointed, blobs: dict[str, StoredBlob], session: Session) -> None:
        refer(session, blobs[INPUT])
        worked = time.monotonic() >= self._progress_from
        checkpoints.record(session, self._job, made.position, made.step, blobs[INPUT], may_be_progress=worked)

    def _ignore(self, found: Checkpoint, reason: str) -> None:
        self._remark("checkpoint.ignored", found, reason=reason)

    def _remark(self, type_: str, found: Checkpoint, **more: Any) -> None:
        data = {"attempt": self._job.attempt, "position": found.position, "step": found.step, **more}
        self._lease.write(lambda session: jobs.remark(session, self._job, type_, data))
