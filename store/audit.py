"""Who did what, written in the transaction that does it: no change without its entry, no entry without its change.

Who acts is the context of the request and no parameter: a change cannot name another. Where nobody acts (a worker, the
sweeper) nothing is recorded; what happens to a job by itself is among its events.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from store.database import now
from store.ids import first_id, new_id
from store.tables import AuditEntry

BATCH = 1000
_DAY_SECONDS = 24 * 3600.0
Outcome = Literal["done", "unchanged", "refused"]


@dataclass(frozen=True)
class Actor:
    project_id: str
    key_id: str | None
    request_id: str


acting: ContextVar[Actor | None] = ContextVar("acting", default=None)


def record(
    session: Session,
    action: str,
    object_id: str | None,
    *,
    outcome: Outcome = "done",
    actor: Actor | None = None,
    project_id: str | None = None,
    **detail: Any,
) -> None:
    """`project_id`: where it is to be read, if not in the actor's own project."""
    actor = actor or acting.get()
    if actor is None:
        return
    session.execute(
        insert(AuditEntry).values(
            id=new_id("aud"),
            project_id=project_id or actor.project_id,
            at=now(),
            key_id=actor.key_id,
            action=action,
            object_id=object_id,
            outcome=outcome,
            request_id=actor.request_id,
            detail=detail,
        )
    )


def expire(session: Session, days: float) -> int:
    """Forget the oldest entries of more than so many days, a batch at a time; ids sort by time, so that no other index
    is needed. How many."""
    until = first_id("aud", session.scalars(select(now())).one() - days * _DAY_SECONDS)
    oldest = select(AuditEntry.id).where(AuditEntry.id < until).order_by(AuditEntry.id).limit(BATCH)
    gone = session.scalars(
        delete(AuditEntry)
        .where(AuditEntry.id.in_(oldest.scalar_subquery()))
        .returning(AuditEntry.id)
        .execution_options(synchronize_session=False)
    )
    return len(gone.all())
