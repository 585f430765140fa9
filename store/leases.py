"""Claim, renew, fence: how one worker at a time holds a row, whatever dies.

The same few functions serve jobs, models and datasets. `attempt` only ever rises and is the fencing token: a worker
that was paused, cut off or declared dead holds an old number, so each of its guarded updates meets zero rows.
None of these commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, select, update
from sqlalchemy.orm import Session

from store.database import moment, now
from store.tables import Dataset, Job, Model

Entity = type[Job] | type[Model] | type[Dataset]


class Fenced(Exception):
    """Another attempt holds the row, or nobody does: whatever the caller computed is not wanted any more."""


def holds(entity: Entity, row_id: str, attempt: int) -> list[ColumnElement[bool]]:
    """The guard of every write that a worker makes."""
    return [entity.id == row_id, entity.attempt == attempt, entity.lease_until.is_not(None)]


def claim(
    session: Session,
    entity: Entity,
    waiting: ColumnElement[bool],
    best: Select[Any],
    worker: str,
    lease_seconds: float,
    **values: Any,
) -> str | None:
    """Take the row that `best` selects; its id, or None. Of two workers that see the same row, one gets it.

    `best` locks its row, and passes over locked ones: SKIP LOCKED (PostgreSQL) sends the second worker to the next row;
    SQLite has one writer at a time anyhow. `waiting`, said again, closes the race where a row was taken between the
    subquery's snapshot and the update.
    """
    return session.execute(
        update(entity)
        .where(entity.id == best.scalar_subquery(), waiting)
        .values(attempt=entity.attempt + 1, worker=worker, lease_until=now() + lease_seconds, **values)
        .returning(entity.id)
        .execution_options(synchronize_session=False)
    ).scalar()


def renew(session: Session, entity: Entity, row_id: str, attempt: int, lease_seconds: float, **values: Any) -> str:
    """Extend the lease; the row's status, which is the worker's order (go on, pause, stop). Raises Fenced."""
    status = session.execute(
        update(entity)
        .where(*holds(entity, row_id, attempt))
        .values(lease_until=now() + lease_seconds, **values)
        .returning(entity.status)
        .execution_options(synchronize_session=False)
    ).scalar()
    if status is None:
        raise Fenced(row_id)
    return status


def is_held(session: Session, row_id: str, attempt: int) -> bool:
    """Whether that attempt may still write."""
    entities: dict[str, Entity] = {"job": Job, "mdl": Model, "ds": Dataset}
    entity = entities.get(row_id.partition("_")[0])
    if entity is None:
        return False
    return session.scalar(select(entity.id).where(*holds(entity, row_id, attempt))) is not None


def expired(session: Session, entity: Entity, limit: int = 100) -> Sequence[Row[str, int]]:
    """(id, attempt) of rows whose worker has gone silent; locked until the transaction ends."""
    return session.execute(
        select(entity.id, entity.attempt)
        .where(entity.lease_until < moment())
        .order_by(entity.lease_until)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
