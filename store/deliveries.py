"""Messages on their way: claimed by one sender at a time, tried again for days, and then given up.

A sender that dies says nothing: what it had claimed is due again when its lease ends. So a message arrives at least
once, and its id is the same however often it comes. None of these commits.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, delete, select, tuple_, update
from sqlalchemy.orm import Session

from store import counters
from store.database import now
from store.tables import Delivery, Webhook

RETRY_SECONDS = (5, 5 * 60, 30 * 60, *(hours * 3600 for hours in (2, 5, 10, 14, 20, 24)))
"""After each failure; the specification's own. In all three days and three hours."""
JITTER = 0.1
"""By how much a wait is longer at most: what failed together does not come back together."""
LEASE_SECONDS = 90.0
"""Far more than an attempt may take, its look-up of a name included."""
FAILING_SECONDS = 5 * 24 * 3600.0
"""After so long without one success a webhook is disabled."""
KEPT_SECONDS = 30 * 24 * 3600.0
KEPT_ATTEMPTS = 20
BATCH = 500
GONE = 410


@dataclass(frozen=True)
class Claimed:
    """A message, and all that sending it needs. `at` is the database's time."""

    webhook_id: str
    id: str
    attempt: int
    type: str
    data: dict[str, Any]
    created_at: float
    attempts: list[Any]
    failures: int
    url: str
    rotation: int
    rotated_at: float | None
    at: float


@dataclass(frozen=True)
class Outcome:
    status_code: int | None
    milliseconds: int
    error: str | None
    """Null where it was taken in."""


def any_due(session: Session) -> bool:
    return session.scalar(select(Delivery.id).where(Delivery.next_attempt_at <= _at(session)).limit(1)) is not None


def claim(session: Session, busy: Collection[str]) -> Claimed | None:
    """The message that is due for longest, of a webhook that is not in `busy`, as this sender's own for LEASE_SECONDS.

    Webhooks that fail come last: one that lets every sender wait for its time-out would hold up all others.
    """
    at = _at(session)
    for is_healthy in (True, False):
        row = session.execute(
            select(Delivery, Webhook)
            .join(Webhook, Webhook.id == Delivery.webhook_id)
            .where(
                Delivery.next_attempt_at <= at,
                Webhook.enabled,
                Webhook.failing_since.is_(None) if is_healthy else Webhook.failing_since.is_not(None),
                Webhook.id.not_in(busy),
            )
            .order_by(Delivery.next_attempt_at, Delivery.id)
            .limit(1)
            .with_for_update(skip_locked=True, of=Delivery)
        ).first()
        if row is not None:
            return _take(session, row.Delivery, row.Webhook, at)
    return None


def _at(session: Session) -> float:
    """Asked for first: an index can be searched for a time that is known, not for a clock that runs."""
    return session.scalars(select(now())).one()


def _take(session: Session, delivery: Delivery, webhook: Webhook, at: float) -> Claimed:
    attempt = delivery.attempt + 1
    session.execute(
        update(Delivery)
        .where(*_key(delivery.webhook_id, delivery.id))
        .values(attempt=attempt, next_attempt_at=at + LEASE_SECONDS)
        .execution_options(synchronize_session=False)
    )
    return Claimed(
        webhook_id=webhook.id,
        id=delivery.id,
        attempt=attempt,
        type=delivery.type,
        data=delivery.data,
        created_at=delivery.created_at,
        attempts=delivery.attempts,
        failures=delivery.failures,
        url=webhook.url,
        rotation=webhook.rotation,
        rotated_at=webhook.rotated_at,
        at=at,
    )


def settle(session: Session, claimed: Claimed, outcome: Outcome) -> str | None:
    """What the attempt made of the message: `delivered`, `pending` or `failed`. None: another sender holds it, and
    this one is not asked any more.

    The webhook's row is locked first, as a deletion locks it before the messages it takes along.
    """
    session.execute(select(Webhook.id).where(Webhook.id == claimed.webhook_id).with_for_update(key_share=True))
    failures = claimed.failures + (outcome.error is not None)
    is_over = outcome.error is None or outcome.status_code == GONE or failures > len(RETRY_SECONDS)
    status = "delivered" if outcome.error is None else "failed" if is_over else "pending"
    said = {"at": claimed.at, **vars(outcome)}
    settled = session.scalar(
        update(Delivery)
        .where(*_key(claimed.webhook_id, claimed.id), Delivery.attempt == claimed.attempt)
        .values(
            status=status,
            failures=failures,
            attempts=[*claimed.attempts, said][-KEPT_ATTEMPTS:],
            next_attempt_at=None if is_over else now() + _wait_seconds(failures),
        )
        .returning(Delivery.id)
        .execution_options(synchronize_session=False)
    )
    if settled is None:
        return None
    counters.count(session, "webhook_attempts", outcome="failed" if outcome.error else "delivered")
    _judge(session, claimed, outcome)
    return status


def _wait_seconds(failures: int) -> float:
    return RETRY_SECONDS[failures - 1] * (1 + JITTER * random.random())  # noqa: S311 - spreads, guards nothing


def _judge(session: Session, claimed: Claimed, outcome: Outcome) -> None:
    """What an attempt says of its webhook, if that still leads where it was sent to."""
    same = (Webhook.id == claimed.webhook_id, Webhook.url == claimed.url)
    if outcome.error is None:
        _set(session, *same, Webhook.failing_since.is_not(None), failing_since=None)
        return
    _set(session, *same, Webhook.failing_since.is_(None), failing_since=now())
    if outcome.status_code == GONE:
        _set(session, *same, Webhook.enabled, enabled=False, disabled_reason="it answered 410 Gone")
    days = FAILING_SECONDS / 86400
    reason = f"every attempt failed for {days:g} days; the last: {outcome.error}"[:400]
    too_long = Webhook.failing_since < now() - FAILING_SECONDS
    _set(session, *same, Webhook.enabled, too_long, enabled=False, disabled_reason=reason)


def _set(session: Session, *who: Any, **values: Any) -> None:
    session.execute(update(Webhook).where(*who).values(**values).execution_options(synchronize_session=False))


def redeliver(session: Session, webhook_id: str, delivery_id: str) -> Delivery | None:
    """Send it (again) now, by the schedule from its start; None: there is no such message. Whoever sends it at this
    moment is fenced: it goes out once more."""
    again = {"status": "pending", "failures": 0, "attempt": Delivery.attempt + 1, "next_attempt_at": now()}
    who = _key(webhook_id, delivery_id)
    session.execute(update(Delivery).where(*who).values(**again).execution_options(synchronize_session=False))
    return session.scalar(select(Delivery).where(*who).execution_options(populate_existing=True))


def page(session: Session, webhook_id: str, after: str | None, limit: int) -> tuple[list[Delivery], bool]:
    """(newest first, from behind the id `after`; whether more follow)."""
    wanted = select(Delivery).where(Delivery.webhook_id == webhook_id)
    if after is not None:
        wanted = wanted.where(Delivery.id < after)
    rows = list(session.scalars(wanted.order_by(Delivery.id.desc()).limit(limit + 1)))
    return rows[:limit], len(rows) > limit


def clear(session: Session) -> int:
    """Give up what is due of disabled webhooks, and forget what is old. How many were forgotten."""
    at = _at(session)
    off = select(Webhook.id).where(~Webhook.enabled)
    if unwanted := _locked(session, Delivery.next_attempt_at <= at, Delivery.webhook_id.in_(off)):
        given_up = update(Delivery).where(_KEY.in_(unwanted)).values(status="failed", next_attempt_at=None)
        session.execute(given_up.execution_options(synchronize_session=False))
    if old := _locked(session, Delivery.created_at < at - KEPT_SECONDS):
        session.execute(delete(Delivery).where(_KEY.in_(old)).execution_options(synchronize_session=False))
    return len(old)


_KEY = tuple_(Delivery.webhook_id, Delivery.id)


def _locked(session: Session, *which: ColumnElement[bool]) -> list[tuple[str, str]]:
    """Keys of some of them. What another transaction holds is left for the next time: one that waited here, with rows
    of its own, could wait for a deletion that waits for these."""
    wanted = select(Delivery.webhook_id, Delivery.id).where(*which).limit(BATCH).with_for_update(skip_locked=True)
    return [(row.webhook_id, row.id) for row in session.execute(wanted)]


def _key(webhook_id: str, delivery_id: str) -> tuple[Any, Any]:
    return Delivery.webhook_id == webhook_id, Delivery.id == delivery_id
