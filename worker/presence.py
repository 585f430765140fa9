"""A worker says that it is there: a row of the table `workers`, touched every few seconds as long as the process lives.

Nothing depends on it but what people look at. Who may write to a job is for leases to say.
"""

from __future__ import annotations

import contextlib
import logging
import threading

from sqlalchemy.exc import SQLAlchemyError

from store import workers
from store.database import AWAY, Database
from store.workers import Announcement

log = logging.getLogger(__name__)

END_SECONDS = 2.0
"""For a beat that is under way when the worker ends."""
PAUSE_SECONDS = 1.0
"""Before the first announcement is tried again."""


class Presence:
    """From its making until `end`. `draining`, once set, is announced at the next beat."""

    def __init__(
        self, database: Database, worker: Announcement, every_seconds: float, draining: threading.Event
    ) -> None:
        self._database, self._worker, self._every_seconds = database, worker, every_seconds
        self._draining = draining
        self._ended = threading.Event()
        self._has_begun, self._is_heard = False, True
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """The last word: it is `stopped`, unless the database is away."""
        self._ended.set()
        self._thread.join(END_SECONDS)
        with contextlib.suppress(SQLAlchemyError), self._database.transaction() as session:
            workers.announce(session, self._worker, "stopped")

    def _beat_on(self) -> None:
        while not self._ended.is_set():
            self._beat()
            self._ended.wait(self._every_seconds if self._has_begun else min(PAUSE_SECONDS, self._every_seconds))

    def _beat(self) -> None:
        """Whatever it meets, the next one comes: else a worker that works would look dead."""
        try:
            with self._database.transaction() as session:
                if self._has_begun:
                    workers.announce(session, self._worker, "draining" if self._draining.is_set() else "ready")
                else:
                    workers.begin(session, self._worker)
        except AWAY as error:
            if self._is_heard:  # once: an outage is long, and other threads tell of it, too
                log.warning("the database is away, no heartbeat is stored: %s", error)
            self._is_heard = False
        except Exception:
            log.exception("no heartbeat is stored")
        else:
            self._has_begun = self._is_heard = True
