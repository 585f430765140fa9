"""Who waits for jobs or comparisons to change: any number of clients at no thread each, by a query every half second.

One task of the process asks for the versions of all jobs that somebody waits for, and wakes those whose job has
changed. Nobody waits: no query. Rows change in other processes, so that asking is what works on both databases; a
notice of PostgreSQL alone would be a second way to do the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from anyio import CapacityLimiter, to_thread
from sqlalchemy import select

from store import comparisons
from store.database import AWAY, Database
from store.tables import Job

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
MAX_WAITING = 5000
"""Of one process; who comes then is answered at once, as who does not wait."""

Version = tuple[int, int]
"""A job's version, and how many events it has; a comparison's own version, and the sum of its jobs'."""


class Watch:
    """One job or comparison that somebody waits for."""

    def __init__(self) -> None:
        self.num_waiting = 0
        self.version: Version | None = None
        self.changed = asyncio.Event()
        """Of the next change that is noticed. Take it before reading: what is noticed while one reads sets it."""
        self._reads: dict[Hashable, asyncio.Task[Any]] = {}

    def wake(self, version: Version | None) -> None:
        self.version = version
        self._reads.clear()
        self.changed.set()
        self.changed = asyncio.Event()

    async def once(self, what: Hashable, read: Callable[[], Awaitable[Any]]) -> Any:
        """Of all that were woken together and read the same, one does it. Not for a first read: what it gives is as
        old as the last change that was noticed."""
        task = self._reads.get(what)
        if task is None:
            task = self._reads[what] = asyncio.ensure_future(read())
        return await asyncio.shield(task)


class Waiting:
    """Belongs to the event loop that runs it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._watches: dict[str, Watch] = {}
        self._somebody_waits = asyncio.Event()
        self._num_waiting = 0
        self.is_over = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._poll_on())
        with self._ending_early():
            try:
                yield
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    @contextmanager
    def watching(self, job_id: str) -> Iterator[Watch | None]:
        """Before the job is read, so that no change falls between. None: too many wait already, or the process ends."""
        if self._num_waiting >= MAX_WAITING or self.is_over:
            yield None
            return
        watch = self._watches.setdefault(job_id, Watch())
        watch.num_waiting += 1
        self._num_waiting += 1
        self._somebody_waits.set()
        try:
            yield watch
        finally:
            watch.num_waiting -= 1
            self._num_waiting -= 1
            if watch.num_waiting == 0 and self._watches.get(job_id) is watch:
                del self._watches[job_id]

    def end(self) -> None:
        """Everybody is answered with what there is: the server waits for open requests before it ends."""
        self.is_over = True
        for watch in list(self._watches.values()):
            watch.wake(watch.version)

    async def _poll_on(self) -> None:
        own_thread = CapacityLimiter(1)  # not one of the requests', which may all be busy
        while True:
            await self._somebody_waits.wait()
            began_at = time.monotonic()
            watched = list(self._watches)
            try:
                versions = await to_thread.run_sync(self._versions, watched, limiter=own_thread)
            except AWAY as error:
                log.warning("the versions of %d jobs could not be read: %s", len(watched), error)
            else:
                self._compare(watched, versions)
            if not self._watches:
                self._somebody_waits.clear()
            # A slow database is asked less often.
            await asyncio.sleep(max(POLL_SECONDS, 2 * (time.monotonic() - began_at)))

    def _versions(self, row_ids: list[str]) -> dict[str, Version]:
        wholes = [row_id for row_id in row_ids if row_id.startswith("cmp_")]
        wanted = select(Job.id, Job.version, Job.num_events).where(Job.id.in_(set(row_ids).difference(wholes)))
        with self._database.reading() as session:
            found: dict[str, Version] = {row.id: (row.version, row.num_events) for row in session.execute(wanted)}
            for row in comparisons.versions(session, wholes) if wholes else ():
                found[row[0]] = (row[1], int(row[2]))
        return found

    def _compare(self, watched: list[str], versions: dict[str, Version]) -> None:
        """A job that is gone has changed, too. The first look wakes as well: what a waiter has read meanwhile may be
        older, and it compares for itself."""
        for job_id in watched:
            watch, version = self._watches.get(job_id), versions.get(job_id)
            if watch is not None and (version is None or watch.version != version):
                watch.wake(version)

    @contextmanager
    def _ending_early(self) -> Iterator[None]:
        """The server's own handler of SIGTERM and SIGINT, and ours before it. It tells an app of its end only when all
        requests are answered, and those that wait are not."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        def end(number: int, frame: Any) -> None:
            loop.call_soon_threadsafe(self.end)
            theirs = before[signal.Signals(number)]
            if callable(theirs):
                theirs(number, frame)

        for number, theirs in before.items():
            if callable(theirs):
                signal.signal(number, end)
        try:
            yield
        finally:
            for number, theirs in before.items():
                if callable(theirs):
                    signal.signal(number, theirs)
