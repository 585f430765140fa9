"""One child for each attempt: renew the lease, store what the child announces, stop it when ordered, fence it.

Here meet the two rules of execution: the database decides (every write is guarded by the attempt's number), and the
child is not trusted (its messages are parsed, its files copied). Nothing numeric happens in this process.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator

from sqlalchemy.exc import DBAPIError

from store import intake, jobs, leases
from store.blobs import BlobsAway, open_blobs
from store.database import Database
from store.leases import Fenced
from store.queue import Bell
from store.settings import Settings
from store.tables import Job
from worker import sandbox
from worker.attempts import IntakeAttempt, JobAttempt
from worker.children import Child, Children, Exited
from worker.folder import BadFile, Folder
from worker.lease import Lease
from worker.messages import AnyMessage, BadMessage, Progress

log = logging.getLogger(__name__)

TICK_SECONDS = 0.2


class Supervisor:
    """What one worker process needs to serve its slots; safe to share between their threads.

    Raises SandboxMissing where it is asked for and this machine has none.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.sandbox == "on":
            sandbox.check(settings.data_dir, settings.blob_dir)
        self.settings = settings
        self.database = Database(settings.database)
        self.blobs = open_blobs(settings)
        self.bell = Bell(settings.broker_url)
        self.children = Children()
        self.draining = threading.Event()
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._clear_work_dir()
        self.children.warm_up()

    def run_next(self, pool: str) -> None:
        """Take the best piece of waiting work and stay with it until it ends; return at once where there is none."""
        if self.draining.is_set():
            return
        lease_seconds = self.settings.lease_seconds
        with self.database.transaction() as session:
            row = intake.claim(session, self.name, lease_seconds) or jobs.claim(session, pool, self.name, lease_seconds)
        if row is None:
            return
        log.info("%s attempt %d: claimed", row.id, row.attempt)
        lease = Lease(self.database, self.settings, type(row), row.id, row.attempt)
        folder = Folder(self.settings.work_dir / f"{row.id}-{row.attempt}", self.settings.folder_max_bytes)
        try:
            with folder, self.children.lent() as child:  # it is dead before its folder goes
                if isinstance(row, Job):
                    waits_again = self._attend(JobAttempt(row, lease, folder, self.blobs, self.settings), child)
                else:
                    waits_again = self._attend(IntakeAttempt(row, lease, folder, self.blobs, self.settings), child)
        except Fenced:
            log.warning("%s attempt %d: fenced, nothing more is written", row.id, row.attempt)
            return
        if waits_again:
            self.bell.ring(pool)

    def _clear_work_dir(self) -> None:
        """Folders of attempts whose worker was killed; those that other workers of this machine hold stay."""
        for folder in self.settings.work_dir.glob("*-*"):
            row_id, _, attempt = folder.name.rpartition("-")
            with self.database.reading() as session:
                held = attempt.isdigit() and leases.is_held(session, row_id, int(attempt))
            if not held:
                shutil.rmtree(folder, ignore_errors=True)

    def _attend(self, attempt: JobAttempt | IntakeAttempt, child: Child) -> bool:
        """See one attempt through; whether its row waits for a worker again. Raises Fenced."""
        try:
            child.order(attempt.order() | {"sandbox": self.settings.sandbox == "on"})
            for message in self._listen(attempt.lease, attempt.folder, child):
                if attempt.take(message):
                    return False
        except BlobsAway as error:
            attempt.postponed(str(error))
            return False  # nobody rings at once: the sweeper does, so that the store is not asked in a tight loop
        except (BadMessage, BadFile, OSError, DBAPIError) as error:
            return attempt.lost(f"{type(error).__name__}: {error}")
        if attempt.lease.ordered_to_stop or self.draining.is_set():
            return attempt.stopped(drained=not attempt.lease.ordered_to_stop)
        return attempt.lost(child.last_words())

    def _listen(self, lease: Lease, folder: Folder, child: Child) -> Iterator[AnyMessage]:
        """What the child says, until it ends; meanwhile the lease is kept and orders are carried out."""
        stop_by = None
        while True:
            message = child.next_message(TICK_SECONDS)
            lease.renew_if_due()
            if folder.size_bytes() + child.unlinked_bytes() > folder.max_bytes:
                raise BadFile(f"the training process left more than {folder.max_bytes} bytes in its folder")
            if lease.ordered_to_stop or self.draining.is_set():
                if stop_by is None:
                    child.ask_to_stop()
                    stop_by = time.monotonic() + self.settings.stop_grace_seconds
                elif time.monotonic() > stop_by:
                    child.kill()
                    return
            match message:
                case None:
                    continue
                case Exited():
                    return
                case BadMessage():
                    raise message
                case Progress():
                    lease.report_progress(message.model_dump(exclude={"type"}))
                case _:
                    yield message

    def close(self) -> None:
        self.children.close()
        self.bell.close()
        self.database.close()
