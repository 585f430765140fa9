"""One held row: renewed on time, written to under the fence, given up before anybody else may take it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from store import jobs, leases, underway
from store.blobs import BlobsAway
from store.database import AWAY, Database
from store.leases import Entity, Fenced
from store.room import is_full
from store.settings import Settings
from store.tables import Job, JobStatus

log = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_SECONDS = 0.5
PROGRESS_SECONDS = 1.0
PATIENCE_SECONDS = 600.0
"""For an object store that does not answer, or a full disk: a round that took hours is worth the wait."""
PAUSE_SECONDS = 2.0
ORDERS = (JobStatus.PAUSING, JobStatus.CANCELING)


class Lease:
    """`attempt` is the fencing token: every write here is guarded by it and raises Fenced when it is stale."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        entity: Entity,
        row_id: str,
        attempt: int,
        draining: threading.Event,
    ) -> None:
        self.entity, self.row_id, self.attempt = entity, row_id, attempt
        self.seconds = settings.lease_seconds
        self._database, self._renew_seconds = database, settings.renew_seconds
        self._draining = draining
        self._renewed_at = time.monotonic()
        self._progress: dict[str, Any] | None = None
        self.status: str = ""
        self.woken: list[str] = []
        """Pools of jobs that were freed by what was written: whoever has a bell rings for them."""

    @property
    def ordered_to_stop(self) -> bool:
        return self.status in ORDERS

    @property
    def is_to_end(self) -> bool:
        """By an order, or because the worker drains."""
        return self.ordered_to_stop or self._draining.is_set()

    def report_progress(self, progress: dict[str, Any]) -> None:
        """Shown with the next renewal, which it brings forward."""
        self._progress = progress

    def renew_if_due(self) -> None:
        age = time.monotonic() - self._renewed_at
        if age >= self._renew_seconds or (self._progress is not None and age >= PROGRESS_SECONDS):
            self.write(self._renew, is_renewal=True)

    def _renew(self, session: Session) -> None:
        if self.entity is Job:
            self.status = jobs.renew(session, self.row_id, self.attempt, self.seconds, self._progress)
        else:
            leases.renew(session, self.entity, self.row_id, self.attempt, self.seconds)
        self._progress = None

    def keep_while(self, work: Callable[[], T], patience_seconds: float = PATIENCE_SECONDS) -> T:
        """Do what may take longer than a lease, which is renewed meanwhile: copying into the blob store or out of it,
        again while that is away.

        Raises Fenced, once the work has ended; BlobsAway, where patience has run out, the job is ordered to stop, or
        the worker drains.
        """
        give_up_at = time.monotonic() + patience_seconds
        with ThreadPoolExecutor(1, "copying") as helper:
            while True:
                copying = helper.submit(work)
                while not wait([copying], RETRY_SECONDS).done:
                    self.renew_if_due()
                try:
                    return copying.result()
                except BlobsAway as error:
                    if self.is_to_end or time.monotonic() >= give_up_at:
                        raise
                    log.warning("%s attempt %d: %s; trying again", self.row_id, self.attempt, error)
                self._draining.wait(PAUSE_SECONDS)
                self.renew_if_due()

    def write(self, work: Callable[[Session], T], *, is_renewal: bool = False) -> T:
        """Do `work` in one transaction, again and again while the database is away, up to the lease's end.

        Only a renewal tells of orders: however much else is written, the next one comes in time.

        Raises Fenced where the row is not ours any more, or cannot be known to be: past the margin another worker may
        hold it, so this one stops by itself.
        """
        while True:
            asked_at = time.monotonic()
            try:
                with self._database.transaction() as session:
                    result = work(session)
            except AWAY as error:
                log.warning("%s attempt %d: the database is away: %s", self.row_id, self.attempt, error)
                # A database without room takes no claim of another worker's either: whoever writes first holds the row.
                patience_seconds = PATIENCE_SECONDS if is_full(error) else 0.8 * self.seconds
                if time.monotonic() > self._renewed_at + patience_seconds:
                    raise Fenced(self.row_id) from error
                time.sleep(RETRY_SECONDS)
            else:
                self.woken += underway.woken(session)
                if is_renewal:  # counted from before the question: the database's clock started no earlier
                    self._renewed_at = asked_at
                return result
