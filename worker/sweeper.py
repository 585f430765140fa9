"""`python -m worker.sweeper`: expired leases, deadlines, and bells that nobody heard. Any number of them may run."""

from __future__ import annotations

import logging
import signal
import threading

from store import sweeps
from store.blobs import open_blobs
from store.database import AWAY, Database
from store.queue import Bell
from store.settings import Settings

log = logging.getLogger("sweeper")

RINGS_A_SWEEP = 100
ABANDONED_SECONDS = 24 * 3600.0
"""Since the last byte of an upload: whoever wrote it is gone."""
SWEPT = "swept"
"""A file in the data directory, touched after each whole sweep: what a health check looks at."""


def sweep(database: Database, bell: Bell) -> None:
    """One round of all that time does to rows; then ring for what waits beyond the messages that explain it."""
    with database.transaction() as session:
        lost = sweeps.expire_leases(session)
        late = sweeps.expire_deadlines(session)
    with database.reading() as session:
        waiting = sweeps.waiting_rows(session)
    if lost or late:
        log.info("%d leases ran out, %d deadlines passed", lost, late)
    for queue, rows in waiting.items():
        messages = bell.waiting_messages(queue)
        if messages is None:
            log.warning("the broker does not answer; jobs wait")
            return
        for _ in range(min(rows - messages, RINGS_A_SWEEP)):
            bell.ring(queue)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s sweeper %(levelname)s %(message)s")
    settings = Settings()
    database, bell = Database(settings.database), Bell(settings.broker_url)
    blobs = open_blobs(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    while not stop.wait(settings.sweep_seconds):
        try:
            sweep(database, bell)
            blobs.clear_incoming(ABANDONED_SECONDS)
            (settings.data_dir / SWEPT).touch()
        except AWAY as error:
            log.warning("the database is away: %s", error)
        except OSError as error:  # the next sweep still expires leases, whatever is wrong with a disk
            log.warning("the blob folder is away: %s", error)
    bell.close()
    database.close()


if __name__ == "__main__":
    main()
