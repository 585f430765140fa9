"""Requests that bear a key are done once: (project, route, key) is a row, and the row holds what was answered.

Work of one transaction takes the row in that transaction: the unique index makes a second request wait until the first
has committed, and it reads the answer then; where the first rolled back, the second does the work. Work that waits for
its client, as a streamed body does, commits the row before it begins (a reservation), renews it while it goes on, and
answers in the transaction of its last write: who lost the reservation meets zero rows. None of these commits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import CursorResult, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from store.database import moment, now
from store.tables import IdempotencyKey

KEPT_SECONDS = 24 * 3600.0
RESERVED_SECONDS = 60.0
"""A process that died leaves its reservation for no longer."""
BATCH = 1000


@dataclass(frozen=True)
class Key:
    project_id: str
    route: str
    key: str
    fingerprint: str
    holder: str
    """Of this request alone."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: str
    content_digest: str | None


class Mismatch(Exception):
    """The key came before, with another payload."""


class InProgress(Exception):
    """The first request with this key is not answered yet."""


class Lost(Exception):
    """The reservation ran out, and another request has it."""


def enter(session: Session, key: Key) -> Answer | None:
    """The answer that was stored; None: the row is this transaction's, to be answered before it commits.

    Raises Mismatch; InProgress where the other transaction takes longer than a lock may be waited for.
    """
    try:
        return _take(session, key)
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) == "55P03":  # lock_not_available
            raise InProgress from error
        raise


def renew(session: Session, key: Key) -> bool:
    """Whether the reservation is still this request's."""
    return _change(session, key, expires_at=now() + RESERVED_SECONDS)


def answer(session: Session, key: Key, answered: Answer) -> None:
    """Raises Lost."""
    kept = {"status": answered.status, "headers": answered.headers, "body": answered.body}
    if not _change(session, key, **kept, content_digest=answered.content_digest, expires_at=now() + KEPT_SECONDS):
        raise Lost(key.key)


def release(session: Session, key: Key) -> None:
    """Nothing was done: the next request with this key is the first."""
    session.execute(delete(IdempotencyKey).where(*_held(key)).execution_options(synchronize_session=False))


def expire(session: Session) -> int:
    """Delete keys that are past their time. How many."""
    late = select(IdempotencyKey.project_id, IdempotencyKey.route, IdempotencyKey.key)
    late = late.where(IdempotencyKey.expires_at < moment()).order_by(IdempotencyKey.expires_at).limit(BATCH)
    swept = 0
    for row in session.execute(late.with_for_update(skip_locked=True)).all():
        session.execute(delete(IdempotencyKey).where(*_at(row.project_id, row.route, row.key)))
        swept += 1
    return swept


def _take(session: Session, key: Key) -> Answer | None:
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    fresh = {
        "fingerprint": key.fingerprint,
        "holder": key.holder,
        "content_digest": None,
        "status": None,
        "headers": None,
        "body": None,
        "expires_at": now() + RESERVED_SECONDS,
    }
    added = dialect.insert(IdempotencyKey).values(project_id=key.project_id, route=key.route, key=key.key, **fresh)
    # One that has expired is as none, though the sweeper has not come by yet.
    taken = session.scalar(
        added.on_conflict_do_update(
            index_elements=[IdempotencyKey.project_id, IdempotencyKey.route, IdempotencyKey.key],
            set_=fresh,
            where=IdempotencyKey.expires_at < now(),
        ).returning(IdempotencyKey.holder)
    )
    if taken is not None:
        return None
    row = session.scalar(select(IdempotencyKey).where(*_at(key.project_id, key.route, key.key)))
    if row is None or row.status is None:  # none: released this very moment
        if row is not None and row.fingerprint != key.fingerprint:
            raise Mismatch(key.key)
        raise InProgress(key.key)
    if row.fingerprint != key.fingerprint:
        raise Mismatch(key.key)
    return Answer(row.status, row.headers or {}, row.body or "", row.content_digest)


def _change(session: Session, key: Key, **values: Any) -> bool:
    changed = session.execute(
        update(IdempotencyKey).where(*_held(key)).values(**values).execution_options(synchronize_session=False)
    )
    assert isinstance(changed, CursorResult)
    return changed.rowcount == 1


def _held(key: Key) -> list[Any]:
    ours = _at(key.project_id, key.route, key.key)
    return [*ours, IdempotencyKey.holder == key.holder, IdempotencyKey.status.is_(None)]


def _at(project_id: str, route: str, key: str) -> list[Any]:
    return [
        IdempotencyKey.project_id == project_id,
        IdempotencyKey.route == route,
        IdempotencyKey.key == key,
    ]
