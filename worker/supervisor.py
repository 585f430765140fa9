"""One child for each attempt: renew the lease, store what the child announces, stop it when ordered, fence it.

Here meet the two rules of execution: the database decides (every write is guarded by the attempt's number), and the
child is not trusted (its messages are parsed, its files copied). Nothing numeric happens in this process.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pruning.formats.extras import installed
from store import intake, jobs, leases, traces
from store.blobs import BlobsAway, Damaged, Full, open_blobs
from store.database import Database
from store.leases import Fenced
from store.logs import bound
from store.queue import INTAKE, Bell
from store.room import is_full
from store.settings import Settings
from store.tables import Dataset, Job, JobStatus, Model
from store.version import VERSION
from store.workers import Announcement
from worker import sandbox
from worker.adoption import Ahead, Waits, adopt, let_wait, look_ahead
from worker.attempts import IntakeAttempt, JobAttempt
from worker.children import Child, Children, Exited
from worker.devices import NoDevice
from worker.folder import BadFile, Folder
from worker.lease import Lease
from worker.limits import OverLimit, allocation_failed, folder_full, took_too_long
from worker.messages import (
    AnyMessage,
    BadMessage,
    Checkpointed,
    Failed,
    NotExported,
    Progress,
    Started,
    printable,
)
from worker.presence import Presence
from worker.room import Room
from worker.slots import Slot, Slots
from worker.spans import attempt_span

log = logging.getLogger(__name__)

TICK_SECONDS = 0.2
DEVICE_SECONDS = 120.0
"""For a device to start in, and to train a step. The first start after boot loads drivers."""
BEGIN_SECONDS = 120.0
"""For a child to be forked in: milliseconds, but for the first, which waits until torch is imported."""
CANCEL_SECONDS = 2.0
"""For a child that has nothing to save."""
PAUSE_SECONDS = 5.0
"""Before a worker that could not start a child takes work again."""
_KINDS: dict[type[Job | Model | Dataset], str] = {Job: "job_id", Model: "model_id", Dataset: "dataset_id"}
"""What a log line calls the row that it is about."""
TRYING = "device_"
"""How the folders begin in which devices are tried."""


class Supervisor:
    """What one worker process needs to serve its slots; safe to share between their threads.

    `slots` are for jobs; uploads have one of their own.

    Raises SandboxMissing where it is asked for and this machine has none, and NoDevice where a slot's does not train.
    """

    def __init__(self, settings: Settings, slots: Sequence[Slot]) -> None:
        if settings.sandbox == "on":
            sandbox.check(settings.data_dir, settings.blob_dir)
        self.settings = settings
        self.database = Database(settings.database)
        self.blobs = open_blobs(settings)
        self.room = Room(self.blobs, settings)
        self.bell = Bell(settings.broker_url)
        self.children = Children()
        self.draining = threading.Event()
        self._job_slots, self._intake_slots = Slots(slots), Slots([Slot()])
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._presence: Presence | None = None
        self._classes: dict[str | None, dict[str, Any]] = {}
        self._untried = ""
        self._clear_work_dir()
        self.children.warm_up()
        for slot in dict.fromkeys(slots):
            if slot.cuda_device is not None:
                self._try_device(slot)
        self._presence = Presence(self.database, self._announcement(), settings.heartbeat_seconds, self.draining)

    def _announcement(self) -> Announcement:
        return Announcement(
            id=self.name,
            pool=self.settings.worker_pool,
            device=self.settings.worker_device,
            slots=len(self._job_slots),
            hostname=socket.gethostname(),
            version=VERSION,
            extras=tuple(installed()),
        )

    def _class_of(self, slot: Slot) -> dict[str, Any] | None:
        """The determinism class of what a slot computes, asked of a child once; None where none can tell: then nothing
        is adopted."""
        if slot.cuda_device not in self._classes:
            try:
                found, why = self._tried(slot), self._untried
            except OSError as error:
                found, why = None, str(error)
            if found is None:
                log.warning("no round is adopted for now: %s", why)
                return None
            self._classes[slot.cuda_device] = found
        return self._classes[slot.cuda_device]

    def _try_device(self, slot: Slot) -> None:
        """Train a step on it, locked in as a job will be: a worker whose device is broken would fail job after job."""
        found = self._tried(slot)
        if found is None:
            self.close()
            raise NoDevice(f"CUDA device {slot.cuda_device} cannot be used: {self._untried}")
        log.info("slot on CUDA device %s: %s", slot.cuda_device, found["model"])
        self._classes[slot.cuda_device] = found

    def _tried(self, slot: Slot) -> dict[str, Any] | None:
        """The determinism class that a child finds there; None where it trains no step, and `_untried` says why."""
        order = {
            "work": "try_device",
            "threads": self.settings.worker_threads,
            "memory_bytes": self.settings.child_memory_bytes,
            "file_bytes": self.settings.folder_max_bytes,
        }
        name = f"{TRYING}{secrets.token_hex(8)}-0"  # process numbers are not unique: containers share the work folder
        folder = Folder(self.settings.work_dir / name, self.settings.folder_max_bytes)
        with folder, self.children.lent() as child:
            child.order(order | {"folder": str(folder.root)} | self._terms(slot))
            match child.next_message(DEVICE_SECONDS):
                case Started(determinism=found):
                    return dict(found)
                case None:
                    self._untried = f"it did not train a step in {DEVICE_SECONDS:g} s"
                case _:
                    self._untried = child.last_words()
        return None

    def run_next(self, queue: str) -> None:
        """Serve a queue until nothing waits in it; return at once where another thread of this worker will.

        Of the worker's threads at most one a slot is ever busy, and there are as many: a job never keeps an upload
        waiting, nor an upload a job.
        """
        slots = self._intake_slots if queue == INTAKE else self._job_slots
        while (slot := slots.take()) is not None:
            try:
                while self._serve(queue, slot):
                    pass
            finally:
                look_again = slots.give_back(slot)
            if not look_again:
                break

    def _serve(self, queue: str, slot: Slot) -> bool:
        """Take the best piece of waiting work and stay with it until it ends; False where there is none to take."""
        if self.draining.is_set() or not self.room.is_there():
            return False
        row: Job | Model | Dataset | None
        ahead = None
        if queue == INTAKE:
            with self.database.transaction() as session:
                row = intake.claim(session, self.name, self.settings.lease_seconds)
        else:
            row, ahead = self._claim_job(queue, slot)
        if row is None:
            return False
        with bound(**{_KINDS[type(row)]: row.id}, attempt=row.attempt, worker=self.name), attempt_span(row, self.name):
            return self._see_through(queue, row, slot, ahead)

    def _claim_job(self, queue: str, slot: Slot) -> tuple[Job | None, Ahead | None]:
        """A job and what it need not compute. One whose next round another worker computes is let wait, as if it had
        not been claimed: its transaction is rolled back."""
        determinism = self._class_of(slot)
        while True:
            try:
                with self.database.transaction() as session:
                    job = jobs.claim(session, queue, self.name, self.settings.lease_seconds)
                    if job is None or determinism is None:
                        return job, None
                    return job, look_ahead(session, job, determinism)
            except Waits as waits:
                let_wait(self.database, waits)

    def _see_through(self, queue: str, row: Job | Model | Dataset, slot: Slot, ahead: Ahead | None = None) -> bool:
        """Whether more may be taken at once."""
        log.info("%s attempt %d: claimed", row.id, row.attempt)
        lease = Lease(self.database, self.settings, type(row), row.id, row.attempt, self.draining)
        folder = Folder(self.settings.work_dir / f"{row.id}-{row.attempt}", self.settings.folder_max_bytes)
        kind = JobAttempt if isinstance(row, Job) else IntakeAttempt
        attempt: JobAttempt | IntakeAttempt = kind(row, lease, folder, self.blobs, self.settings)  # type: ignore[arg-type]
        try:
            if ahead is not None and isinstance(attempt, JobAttempt):
                is_all = adopt(attempt, ahead)
                if is_all and not attempt.wants_exports:
                    attempt.complete()
                    return True
            try:
                with folder, self.children.lent() as child:  # it is dead before its folder goes
                    waits_again = self._attend(attempt, child, slot)
            except OSError as error:
                if not is_full(error):
                    raise
                attempt.postponed(f"the worker's disk is full: {error.strerror}")
                return False
        except Fenced:
            log.warning("%s attempt %d: fenced, nothing more is written", row.id, row.attempt)
            traces.note_end("fenced")
            return True
        finally:
            self._ring_for_woken(lease)
        if waits_again:
            self.bell.ring(queue)  # another worker's turn, perhaps: this one may be draining
        return True

    def _ring_for_woken(self, lease: Lease) -> None:
        while lease.woken:
            self.bell.ring(lease.woken.pop())

    def _clear_work_dir(self) -> None:
        """Folders of attempts whose worker was killed; those that other workers of this machine hold stay."""
        for folder in self.settings.work_dir.glob("*-*"):
            row_id, _, attempt = folder.name.rpartition("-")
            if row_id.startswith(TRYING):
                held = _age_seconds(folder) < 2 * DEVICE_SECONDS
            else:
                with self.database.reading() as session:
                    held = attempt.isdigit() and leases.is_held(session, row_id, int(attempt))
            if not held:
                shutil.rmtree(folder, ignore_errors=True)

    def _attend(self, attempt: JobAttempt | IntakeAttempt, child: Child, slot: Slot) -> bool:
        """See one attempt through; whether its row waits for a worker again. Raises Fenced."""
        try:
            order = attempt.order() | self._terms(slot)
            child.order(order)
            for message in self._listen(attempt.lease, attempt.folder, child, attempt.most_seconds):
                if isinstance(message, Failed | NotExported) and self.room.is_taken_by_others(attempt.folder):
                    raise Full("the worker's disk is full, which may be why the training process failed")
                if attempt.take(message):
                    return False
                self._ring_for_woken(attempt.lease)
        except Full as error:
            if self.room.is_taken_by(attempt.folder):
                return attempt.lost(f"its own files fill the worker's disk: {error}")
            attempt.postponed(str(error))
            return False
        except BlobsAway as error:
            attempt.postponed(str(error))
            return False  # nobody rings at once: the sweeper does, so that the store is not asked in a tight loop
        except OverLimit as error:
            return self._refused(attempt, error)
        except (BadMessage, BadFile, Damaged) as error:
            return self._lost(attempt, f"{type(error).__name__}: {error}")
        except Fenced:
            raise
        except Exception as error:
            # Whatever a hostile child brought about: else its row would hang until the lease ends. What the error says
            # (SQL, paths of this machine) is for the log, not for the user.
            log.exception("%s", attempt.folder.root.name)
            return self._lost(attempt, f"{type(error).__name__} in the worker; its log says more")
        if attempt.lease.ordered_to_stop or self.draining.is_set():
            return attempt.stopped(drained=not attempt.lease.ordered_to_stop)
        if not child.has_begun:  # no memory, no process numbers left: the machine's trouble, not the job's
            attempt.postponed(child.last_words())
            self.draining.wait(PAUSE_SECONDS)
            return False
        words = child.last_words()
        if over := allocation_failed(words, child.process.peak_bytes, order["memory_bytes"]):
            return self._refused(attempt, over)
        return self._lost(attempt, words)

    def _refused(self, attempt: JobAttempt | IntakeAttempt, over: OverLimit) -> bool:
        """As if the child had said so itself."""
        if self.room.is_taken_by_others(attempt.folder):
            attempt.postponed(f"the worker's disk is full; {over}")
        else:
            attempt.take(Failed(code=over.code, message=printable(str(over))))
        return False

    def _lost(self, attempt: JobAttempt | IntakeAttempt, reason: str) -> bool:
        """A failure of the attempt's, unless it had no room to succeed; whether its row is to be rung for."""
        if self.room.is_taken_by_others(attempt.folder):
            attempt.postponed(f"the worker's disk is full; {reason}")
            return False
        return attempt.lost(reason)

    def _terms(self, slot: Slot) -> dict[str, Any]:
        """What a child is told beside its work: on what, and under which walls."""
        return {
            "sandbox": self.settings.sandbox == "on",
            "cuda_device": slot.cuda_device,
            "gpu_memory_fraction": self.settings.gpu_memory_fraction,
        }

    def _listen(
        self, lease: Lease, folder: Folder, child: Child, most_seconds: float | None = None
    ) -> Iterator[AnyMessage]:
        """What the child says, until it ends; meanwhile the lease is kept and orders are carried out."""
        stop_by, saves, began_at = None, True, time.monotonic()
        while True:
            if not child.has_begun and time.monotonic() > began_at + BEGIN_SECONDS:
                self.children.start_over()
                child.kill()
                return
            message = child.next_message(TICK_SECONDS)
            lease.renew_if_due()
            if (used_bytes := folder.size_bytes() + child.unlinked_bytes()) > folder.max_bytes:
                raise folder_full(used_bytes, folder.max_bytes)
            if most_seconds is not None and time.monotonic() > began_at + most_seconds:
                raise took_too_long(most_seconds)
            if lease.is_to_end:
                is_wanted = lease.status != JobStatus.CANCELING
                if stop_by is None or (saves and not is_wanted):  # a cancel may follow a pause
                    saves, grace = is_wanted, self.settings.stop_grace_seconds
                    child.ask_to_stop(saves)
                    stop_by = time.monotonic() + (grace if saves else min(grace, CANCEL_SECONDS))
                elif time.monotonic() > stop_by:
                    child.kill()
                    if isinstance(message, Checkpointed):
                        yield message  # saved at the last moment
                    return
            match message:
                case None:
                    continue
                case Exited():
                    return
                case BadMessage() | OverLimit():
                    raise message
                case Progress():
                    lease.report_progress(message.model_dump(exclude={"type"}))
                case _:
                    yield message

    def close(self) -> None:
        if self._presence is not None:
            self._presence.end()
        self.children.close()
        self.bell.close()
        self.database.close()


def _age_seconds(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0  # its worker removed it just now
