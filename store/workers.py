"""Who works: workers announce themselves by a heartbeat, and queues are read beside who serves them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from store.database import now
from store.queue import INTAKE
from store.tables import Attempt, Dataset, IntakeStatus, Job, JobStatus, Model, Worker

State = Literal["ready", "draining", "stopped"]

BEATS = 4
"""So many heartbeats missed, and a worker counts as gone."""
KEPT_SECONDS = 3600.0
"""A worker that has gone is shown for so long."""
MAX_QUEUES = 100
"""A job may name any pool: the longest-waiting are shown, and no more of them, however many somebody makes up."""
MAX_WORKERS = 1000


@dataclass(frozen=True)
class Announcement:
    """`id` is the name that the worker writes into the rows it holds."""

    id: str
    pool: str
    device: str
    slots: int
    hostname: str
    version: str
    extras: tuple[str, ...] = ()
    """Of `pruning.formats.extras`, those that it has installed."""


def announce(session: Session, worker: Announcement, state: State) -> None:
    """By the database's clock. A row that a sweeper has forgotten meanwhile is there again."""
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    beat = dialect.insert(Worker).values(
        **vars(worker) | {"extras": list(worker.extras)}, state=state, started_at=now(), seen_at=now()
    )
    news = {"state": beat.excluded.state, "seen_at": beat.excluded.seen_at}
    session.execute(beat.on_conflict_do_update(index_elements=[Worker.id], set_=news))


def begin(session: Session, worker: Announcement) -> None:
    """The first announcement of a process. Whoever had its name is dead: process numbers of containers repeat."""
    session.execute(delete(Worker).where(Worker.id == worker.id))
    announce(session, worker, "ready")


def forget_silent(session: Session) -> int:
    """Rows of workers that went long ago. How many."""
    gone = delete(Worker).where(Worker.seen_at < now() - KEPT_SECONDS).returning(Worker.id)
    return len(session.scalars(gone.execution_options(synchronize_session=False)).all())


@dataclass(frozen=True)
class Holding:
    """A job that a worker holds."""

    project_id: str
    job_id: str
    attempt: int
    since: float


@dataclass(frozen=True)
class Seen:
    worker: Worker
    alive: bool
    holdings: list[Holding]


def seen(session: Session, heartbeat_seconds: float) -> list[Seen]:
    """Those alive first, each with what it holds in any project: what of it is shown is the caller's to decide."""
    alive = _alive(heartbeat_seconds)
    rows = session.execute(
        select(Worker, alive).order_by(alive.desc(), Worker.pool, Worker.id).limit(MAX_WORKERS)
    ).all()
    held = defaultdict(list)
    for row in session.execute(
        select(Job.worker, Job.project_id, Job.id, Job.attempt, Attempt.started_at)
        .join(Attempt, (Attempt.job_id == Job.id) & (Attempt.number == Job.attempt))
        .where(Job.status.in_(_HELD), Job.lease_until.is_not(None))
        .order_by(Attempt.started_at)
    ):
        held[row.worker].append(Holding(row.project_id, row.id, row.attempt, row.started_at))
    return [Seen(worker, bool(is_alive), held[worker.id]) for worker, is_alive in rows]


_HELD = (JobStatus.RUNNING, JobStatus.PAUSING, JobStatus.CANCELING)


def _alive(heartbeat_seconds: float) -> ColumnElement[bool]:
    return (Worker.state != "stopped") & (Worker.seen_at > now() - BEATS * heartbeat_seconds)


@dataclass(frozen=True)
class Queue:
    """`workers` are those alive that serve it; `oldest_seconds` is null where nothing waits."""

    pool: str
    depth: int
    oldest_seconds: float | None
    workers: int

    def is_stuck(self, after_seconds: float) -> bool:
        """Something waits and nobody will come."""
        return self.workers == 0 and self.oldest_seconds is not None and self.oldest_seconds > after_seconds


def without_extra(session: Session, heartbeat_seconds: float, pool: str, extra: str) -> tuple[int, int]:
    """(how many living workers of the pool have not the extra, how many there are)."""
    found = session.scalars(select(Worker).where(Worker.pool == pool, _alive(heartbeat_seconds))).all()
    return sum(extra not in (worker.extras or ()) for worker in found), len(found)


def queues(session: Session, heartbeat_seconds: float, pools: Sequence[str] | None = None) -> list[Queue]:
    """INTAKE's, those of every pool that a living worker serves, and the MAX_QUEUES in which something has waited
    longest; `pools`, given, are all of the latter that are looked at."""
    serving = dict(
        session.execute(select(Worker.pool, func.count()).where(_alive(heartbeat_seconds)).group_by(Worker.pool)).all()
    )
    at = session.scalars(select(now())).one()
    oldest = func.min(Job.queued_at)
    queued = select(Job.pool, func.count(), oldest).where(Job.status == JobStatus.QUEUED).group_by(Job.pool)
    if pools is not None:
        queued = queued.where(Job.pool.in_([*pools, *serving]))
    waiting = {
        pool: (depth, since) for pool, depth, since in session.execute(queued.order_by(oldest).limit(MAX_QUEUES))
    }
    missed = [pool for pool in serving if pool not in waiting]
    if len(waiting) == MAX_QUEUES and missed:
        waiting |= {pool: (depth, since) for pool, depth, since in session.execute(queued.where(Job.pool.in_(missed)))}
    found = [_uploads(session, at, sum(serving.values()))]
    for pool in sorted({*waiting, *serving}):
        depth, since = waiting.get(pool, (0, None))
        found.append(Queue(pool, depth, _age(at, since), serving.get(pool, 0)))
    return found


def _uploads(session: Session, at: float, num_workers: int) -> Queue:
    depth, oldest = 0, None
    for entity in (Model, Dataset):
        unheld = (entity.status == IntakeStatus.VALIDATING) & entity.lease_until.is_(None)
        count, since = session.execute(select(func.count(), func.min(entity.created_at)).where(unheld)).one()
        depth += count
        oldest = min((time for time in (oldest, since) if time is not None), default=None)
    return Queue(INTAKE, depth, _age(at, oldest), num_workers)


def _age(at: float, since: float | None) -> float | None:
    return None if since is None else max(0.0, at - since)
