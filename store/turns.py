"""Whose turn it is: of the jobs that wait in a pool, the one that a worker takes next.

Higher priority first; among equals the project that has the fewest jobs running in the pool, so that nobody waits until
all of another's hundred jobs are done; within a project a job that others wait for, then the oldest.

However many wait, few rows are read: the head of each (priority, project) is found by a search of `ix_jobs_turns` that
skips from one to the next, and only those heads are compared.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, literal_column, select, true
from sqlalchemy.orm import Session, aliased

from store.tables import Job

_QUEUED: ColumnElement[str] = literal_column("'queued'")
"""Not a parameter: the index is for this very value, which whoever plans the query has to see."""


def can_be_claimed(job: type[Job], pool: str) -> ColumnElement[bool]:
    return and_(job.pool == pool, job.status == _QUEUED, job.awaits.is_(None))


def next_job(session: Session, pool: str) -> Select[Any]:
    """The id of one job, locked; none where none can be claimed. Rows that another claim has locked are passed over."""
    heads = _heads(pool)
    head, busy = aliased(Job), aliased(Job)
    num_running = (
        select(func.count())
        .select_from(busy)
        .where(busy.pool == pool, busy.project_id == head.project_id, busy.lease_until.is_not(None))
        .scalar_subquery()
    )
    ranked = (
        select(head.id, head.priority, head.project_id)
        .join(heads, heads.c.id == head.id)
        .order_by(head.priority.desc(), num_running, head.is_awaited.desc(), head.id)
    )
    if session.get_bind().dialect.name == "sqlite":  # one writer at a time: no head is locked
        return select(ranked.limit(1).subquery().c.id)
    best, free = ranked.subquery(), aliased(Job)
    first_free = (
        select(free.id)
        .where(can_be_claimed(free, pool), free.priority == best.c.priority, free.project_id == best.c.project_id)
        .order_by(*_within(free))
        .limit(1)
        .with_for_update(skip_locked=True)
        .lateral()
    )
    return select(first_free.c.id).select_from(best).join(first_free, true()).limit(1)


def _heads(pool: str) -> Any:
    """Ids of the first job of each (priority, project): a recursive walk, one search of the index for each step."""
    first, seen, same, lower = (aliased(Job) for _ in range(4))
    start = (
        select(first.id)
        .where(can_be_claimed(first, pool))
        .order_by(first.priority.desc(), first.project_id, *_within(first))
        .limit(1)
    )
    heads = select(start.scalar_subquery().label("id")).cte("heads", recursive=True)
    next_project = (
        select(same.id)
        .where(can_be_claimed(same, pool), same.priority == seen.priority, same.project_id > seen.project_id)
        .order_by(same.project_id, *_within(same))
        .limit(1)
    )
    next_priority = (
        select(lower.id)
        .where(can_be_claimed(lower, pool), lower.priority < seen.priority)
        .order_by(lower.priority.desc(), lower.project_id, *_within(lower))
        .limit(1)
    )
    step = func.coalesce(
        next_project.correlate(seen).scalar_subquery(), next_priority.correlate(seen).scalar_subquery()
    )
    return heads.union_all(select(step).select_from(heads).join(seen, seen.id == heads.c.id))


def _within(job: type[Job]) -> tuple[Any, Any]:
    """The order of one project's jobs of one priority."""
    return job.is_awaited.desc(), job.id
