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

from store import intake, jobs, leases
from store.blobs import BlobsAway, Damaged, Full, open_blobs
from store.database import Database
from store.leases import Fenced
from store.queue import INTAKE, Bell
from store.room import free_bytes, is_full
from store.settings import Settings
from store.tables import Dataset, Job, Model
from worker import sandbox
from worker.attempts import IntakeAttempt, JobAttempt
from worker.children import Child, Children, Exited
from worker.devices import NoDevice
from worker.folder import BadFile, Folder
from worker.lease import Lease
from worker.messages import AnyMessage, BadMessage, Failed, NotExported, Progress, Started
from worker.slots import Slot, Slots

log = logging.getLogger(__name__)

TICK_SECONDS = 0.2
DEVICE_SECONDS = 120.0
"""For a device to start in, and to train a step. The first start after boot loads drivers."""
BEGIN_SECONDS = 120.0
"""For a child to be forked in: milliseconds, but for the first, which waits until torch is imported."""
PAUSE_SECONDS = 5.0
"""Before a worker that could not start a child takes work again."""
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
        settings.work_dir.mkdir(parents=True, exist_ok=True)
        self.settings = settings
        self.database = Database(settings.database)
        self.blobs = open_blobs(settings)
        self.bell = Bell(settings.broker_url)
        self.children = Children()
        self.draining = threading.Event()
        self._has_room = True
        self._job_slots, self._intake_slots = Slots(slots), Slots([Slot()])
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._clear_work_dir()
        self.children.warm_up()
        for slot in dict.fromkeys(slots):
            if slot.cuda_device is not None:
                self._try_device(slot)

    def _try_device(self, slot: Slot) -> None:
        """Train a step on it, locked in as a job will be: a worker whose device is broken would fail job after job."""
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
                    log.info("slot on CUDA device %s: %s", slot.cuda_device, found["model"])
                    return
                case None:
                    reason = f"it did not train a step in {DEVICE_SECONDS:g} s"
                case _:
                    reason = child.last_words()
        self.close()
        raise NoDevice(f"CUDA device {slot.cuda_device} cannot be used: {reason}")

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
        if self.draining.is_set() or not self._looks_for_room():
            return False
        row: Job | Model | Dataset | None
        with self.database.transaction() as session:
            if queue == INTAKE:
                row = intake.claim(session, self.name, self.settings.lease_seconds)
            else:
                row = jobs.claim(session, queue, self.name, self.settings.lease_seconds)
        if row is None:
            return False
        log.info("%s attempt %d: claimed", row.id, row.attempt)
        lease = Lease(self.database, self.settings, type(row), row.id, row.attempt, self.draining)
        folder = Folder(self.settings.work_dir / f"{row.id}-{row.attempt}", self.settings.folder_max_bytes)
        kind = JobAttempt if isinstance(row, Job) else IntakeAttempt
        attempt: JobAttempt | IntakeAttempt = kind(row, lease, folder, self.blobs, self.settings)  # type: ignore[arg-type]
        try:
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
            return True
        if waits_again:
            self.bell.ring(queue)  # another worker's turn, perhaps: this one may be draining
        return True

    def _looks_for_room(self) -> bool:
        """Whether the disk can take an attempt and its results: one that cannot be stored would be computed again and
        again. What waits, waits; the sweeper rings."""
        has_room = self._free_bytes() >= self.settings.min_free_bytes
        if has_room != self._has_room:
            log.warning("the disk is full: no work is taken" if not has_room else "the disk has room again")
        self._has_room = has_room
        return has_room

    def _free_bytes(self) -> int:
        return min(self.blobs.free_bytes(), free_bytes(self.settings.work_dir))

    def _is_starved(self, folder: Folder) -> bool:
        """Whether this attempt finds no room that others have taken. Measured here, not believed of a child."""
        return self._free_bytes() + _taken_bytes(folder) < self.settings.min_free_bytes

    def _fills_the_disk(self, folder: Folder) -> bool:
        """Whether it takes the room itself: then it would do so again, and must not be tried for ever."""
        return self._free_bytes() < self.settings.min_free_bytes <= self._free_bytes() + _taken_bytes(folder)

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
            child.order(attempt.order() | self._terms(slot))
            for message in self._listen(attempt.lease, attempt.folder, child):
                if isinstance(message, Failed | NotExported) and self._is_starved(attempt.folder):
                    raise Full("the worker's disk is full, which may be why the training process failed")
                if attempt.take(message):
                    return False
        except Full as error:
            if self._fills_the_disk(attempt.folder):
                return attempt.lost(f"its own files fill the worker's disk: {error}")
            attempt.postponed(str(error))
            return False
        except BlobsAway as error:
            attempt.postponed(str(error))
            return False  # nobody rings at once: the sweeper does, so that the store is not asked in a tight loop
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
        return self._lost(attempt, child.last_words())

    def _lost(self, attempt: JobAttempt | IntakeAttempt, reason: str) -> bool:
        """A failure of the attempt's, unless it had no room to succeed; whether its row is to be rung for."""
        if self._is_starved(attempt.folder):
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

    def _listen(self, lease: Lease, folder: Folder, child: Child) -> Iterator[AnyMessage]:
        """What the child says, until it ends; meanwhile the lease is kept and orders are carried out."""
        stop_by, begin_by = None, time.monotonic() + BEGIN_SECONDS
        while True:
            if not child.has_begun and time.monotonic() > begin_by:
                self.children.start_over()
                child.kill()
                return
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


def _taken_bytes(folder: Folder) -> int:
    try:
        return folder.size_bytes()
    except BadFile:
        return folder.max_bytes


def _age_seconds(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0  # its worker removed it just now
