"""`python -m worker.sweeper`: expired leases, deadlines, bells that nobody heard, what is to be cleared away, and
messages to webhooks. Any number of them may run."""

from __future__ import annotations

import logging
import random
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle

from store import audit, collection, deliveries, idempotency, logs, sweeps, uploads, workers
from store.blobs import BlobsAway, BlobStore, open_blobs
from store.database import AWAY, Database
from store.queue import Bell
from store.settings import Settings
from worker import conclusions, retention
from worker.webhooks import Sender

log = logging.getLogger("sweeper")

RINGS_A_SWEEP = 100
ABANDONED_SECONDS = 24 * 3600.0
"""Since the last byte of an upload: whoever wrote it is gone."""
SAID_SECONDS = 60.0
"""Between two warnings of the same stuck queue."""
SWEPT = "swept"
"""A file in the data directory, touched after each whole sweep: what a health check looks at."""


def sweep(database: Database, bell: Bell) -> None:
    """One round of all that time does to rows; then ring for what waits beyond the messages that explain it."""
    with database.transaction() as session:
        lost = sweeps.expire_leases(session)
        late = sweeps.expire_deadlines(session)
        workers.forget_silent(session)
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


class QueueWatch:
    """Says in the log which queues are stuck, each once a minute."""

    def __init__(self, heartbeat_seconds: float, stuck_seconds: float) -> None:
        self._heartbeat_seconds, self._stuck_seconds = heartbeat_seconds, stuck_seconds
        self._said_at: dict[str, float] = {}

    def look(self, database: Database) -> None:
        with database.reading() as session:
            queues = workers.queues(session, self._heartbeat_seconds)
        at = time.monotonic()
        self._said_at = {pool: said for pool, said in self._said_at.items() if at - said < SAID_SECONDS}
        for queue in queues:
            if not queue.is_stuck(self._stuck_seconds) or queue.pool in self._said_at:
                continue
            self._said_at[queue.pool] = at
            log.warning(
                "the queue %s is stuck: %d wait, the oldest for %.0f s, and no living worker serves it",
                queue.pool,
                queue.depth,
                queue.oldest_seconds,
                extra={"pool": queue.pool, "depth": queue.depth, "oldest_seconds": queue.oldest_seconds},
            )


def drop_artifacts(database: Database) -> None:
    with database.transaction() as session:
        dropped = retention.drop_artifacts(session)
    if dropped:
        log.info("%d artifacts dropped", dropped)


def conclude(database: Database) -> None:
    with database.transaction() as session:
        ended = conclusions.conclude_comparisons(session)
    if ended:
        log.info("%d comparisons have ended", ended)


def expire_keys(database: Database) -> None:
    with database.transaction() as session:
        idempotency.expire(session)


def expire_uploads(database: Database) -> None:
    with database.transaction() as session:
        expired = uploads.expire(session)
    if expired:
        log.info("%d uploads expired", expired)


def expire_audit_log(database: Database, days: float | None) -> None:
    if days is None:
        return
    with database.transaction() as session:
        audit.expire(session, days)


def clear_deliveries(database: Database) -> None:
    with database.transaction() as session:
        deliveries.clear(session)


def keep_sending(sender: Sender, stop: threading.Event) -> None:
    """In a thread of its own: no receiver, however slow, holds up the rest of a sweep."""
    while not stop.is_set():
        survives(sender.turn)
    sender.close()


def keep_making_room(database: Database, blobs: BlobStore, stop: threading.Event, every_seconds: float) -> None:
    """In a thread of its own: a bucket that hangs holds up no lease that runs out. It removes before it writes: on a
    full disk that alone can be done."""
    shards = cycle(random.sample(collection.SHARDS, len(collection.SHARDS)))  # sweepers go through them apart
    while not stop.wait(every_seconds):
        survives(partial(blobs.clear_incoming, ABANDONED_SECONDS))
        survives(partial(collection.collect, database, blobs, next(shards)))


def survives(work: Callable[[], object]) -> bool:
    """Do a part of a sweep; whether it went well. Whatever it meets (a database or a bucket that is away, a full disk)
    is over some time: the other parts are done all the same, and this one again at the next turn."""
    try:
        work()
    except (*AWAY, BlobsAway, OSError) as error:
        log.warning("%s; trying again", error)
        return False
    except Exception:
        log.exception("a part of the sweep failed; trying again")
        return False
    return True


def main() -> None:
    settings = Settings()
    logs.configure(settings, "sweeper")
    database, bell = Database(settings.database), Bell(settings.broker_url)
    blobs = open_blobs(settings)
    watch = QueueWatch(settings.heartbeat_seconds, settings.stuck_seconds)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    beside = [
        threading.Thread(target=keep_sending, args=(Sender(database, settings), stop), name="webhooks"),
        threading.Thread(target=keep_making_room, args=(database, blobs, stop, settings.sweep_seconds), name="room"),
    ]
    for thread in beside:
        thread.start()
    while not stop.wait(settings.sweep_seconds):
        went_well = survives(partial(sweep, database, bell))
        survives(partial(drop_artifacts, database))
        survives(partial(conclude, database))
        survives(partial(clear_deliveries, database))
        survives(partial(expire_keys, database))
        survives(partial(expire_audit_log, database, settings.audit_days))
        survives(partial(watch.look, database))
        survives(partial(expire_uploads, database))
        if went_well:
            survives((settings.data_dir / SWEPT).touch)
    for thread in beside:
        thread.join()
    bell.close()
    database.close()


if __name__ == "__main__":
    main()
