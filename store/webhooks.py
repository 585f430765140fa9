"""Where projects want to hear of their jobs: webhooks by the Standard Webhooks specification.

What is to be told is written as rows (`Delivery`) in the transaction of what it tells: no message without its change,
no change without its message. The sweeper sends them (`store.deliveries`). None of these commits.

A secret is stored nowhere. It is HMAC-SHA256 under the service's own secret (`Settings.secret`) of the webhook's id and
the number of its rotation. The service's secret is random and long and HMAC a pseudorandom function, so no secret says
anything of another, and whoever reads the database or a copy of it can sign nothing. Encrypted secrets would need the
same key, rows to keep, and a way to encrypt them anew. The price: with another `ESPALIER_SECRET_KEY` every webhook has
another secret, and API and sweeper must share the key.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from typing import Any, Literal, get_args

from sqlalchemy import delete, func, insert, literal, or_, select, update
from sqlalchemy.orm import Session

from store.database import now
from store.ids import new_id
from store.tables import Delivery, Project, Webhook

EventType = Literal[
    "job.queued",
    "job.running",
    "job.pausing",
    "job.paused",
    "job.canceling",
    "job.succeeded",
    "job.failed",
    "job.canceled",
    "round.stored",
    "comparison.succeeded",
    "comparison.failed",
    "comparison.canceled",
]
EVENTS: tuple[str, ...] = get_args(EventType)
ALL = "*"
PING = "webhook.ping"
"""Sent when it is asked for, whatever a webhook listens to."""

MAX_WEBHOOKS = 20
"""Of one project: each of them is one more row for every event."""
OVERLAP_SECONDS = 24 * 3600.0
"""For which the secret before the last rotation signs, too."""


class TooMany(Exception):
    """The project has MAX_WEBHOOKS."""


def tell(session: Session, project_id: str, type_: str, job_id: str, **data: Any) -> None:
    """Of a job: see `tell_of`."""
    tell_of(session, project_id, type_, job=job_id, **data)


def tell_of(session: Session, project_id: str, type_: str, **data: Any) -> None:
    """To every enabled webhook of the project that listens to `type_`: one statement, no rows where none does.

    KEY SHARE closes the race with a deletion: a webhook that is being deleted is waited for and then left out. Without
    it the foreign key would refuse the row, and with it the change that it tells. A change of the webhook, its end
    included, is no such lock and waits for nobody.
    """
    if type_ in EVENTS:
        listens = or_(*(Webhook.events.contains(f" {event} ", autoescape=True) for event in (type_, ALL)))
        _write(
            session, type_, {"project": project_id, **data}, Webhook.project_id == project_id, Webhook.enabled, listens
        )


def ping(session: Session, webhook: Webhook) -> Delivery:
    """A message to try it with."""
    data = {"webhook": webhook.id, "project": webhook.project_id}
    delivery_id = _write(session, PING, data, Webhook.id == webhook.id)
    return session.scalars(select(Delivery).where(Delivery.webhook_id == webhook.id, Delivery.id == delivery_id)).one()


def _write(session: Session, type_: str, data: dict[str, Any], *who: Any) -> str:
    columns = {
        "id": new_id("dlv"),
        "type": type_,
        "data": data,
        "status": "pending",
        "attempt": 0,
        "attempts": [],
        "failures": 0,
    }
    chosen = [literal(value, Delivery.__table__.c[name].type) for name, value in columns.items()]
    rows = select(Webhook.id, *chosen, now(), now()).where(*who).with_for_update(read=True, key_share=True)
    names = ["webhook_id", *columns, "next_attempt_at", "created_at"]
    session.execute(insert(Delivery).from_select(names, rows))
    return str(columns["id"])


def secrets_of(service_secret: bytes, webhook_id: str, rotation: int, rotated_at: float | None, at: float) -> list[str]:
    """`whsec_...`: the webhook's secret, then the one before it while both sign."""
    overlaps = rotated_at is not None and at < rotated_at + OVERLAP_SECONDS
    return [_secret(service_secret, webhook_id, number) for number in (rotation, rotation - 1)[: 1 + overlaps]]


def secret_of(service_secret: bytes, webhook: Webhook) -> str:
    return _secret(service_secret, webhook.id, webhook.rotation)


def _secret(service_secret: bytes, webhook_id: str, rotation: int) -> str:
    derived = hmac.digest(service_secret, f"webhook secret\0{webhook_id}\0{rotation}".encode(), "sha256")
    return "whsec_" + base64.b64encode(derived).decode()


def add(session: Session, project_id: str, url: str, events: Sequence[str], description: str, enabled: bool) -> Webhook:
    """Raises TooMany. The project's row is locked: of two that come at once, the second counts the first one's."""
    session.execute(select(Project.id).where(Project.id == project_id).with_for_update(key_share=True))
    count = session.scalars(select(func.count()).select_from(Webhook).where(Webhook.project_id == project_id)).one()
    if count >= MAX_WEBHOOKS:
        raise TooMany(project_id)
    webhook = Webhook(
        id=new_id("wh"),
        project_id=project_id,
        url=url,
        events=joined(events),
        description=description,
        enabled=enabled,
        created_at=now(),
    )
    session.add(webhook)
    session.flush()
    session.refresh(webhook)
    return webhook


def change(session: Session, project_id: str, webhook_id: str, **values: Any) -> Webhook | None:
    """Set columns; the row as it is then, or None. What the service held against it is forgotten: its project has seen
    to it."""
    if values:
        values |= {"failing_since": None, "disabled_reason": None}
    return _update(session, project_id, webhook_id, **values)


def rotate(session: Session, project_id: str, webhook_id: str) -> Webhook | None:
    """A new secret; the one before signs, too, for OVERLAP_SECONDS. One before that no longer does."""
    return _update(session, project_id, webhook_id, rotation=Webhook.rotation + 1, rotated_at=now())


def remove(session: Session, project_id: str, webhook_id: str) -> bool:
    """With its deliveries."""
    gone = delete(Webhook).where(Webhook.id == webhook_id, Webhook.project_id == project_id).returning(Webhook.id)
    return session.scalar(gone.execution_options(synchronize_session=False)) is not None


def _update(session: Session, project_id: str, webhook_id: str, **values: Any) -> Webhook | None:
    """A single UPDATE, never SELECT ... FOR UPDATE first: that lock would make jobs wait (`tell`)."""
    own = (Webhook.id == webhook_id, Webhook.project_id == project_id)
    if values:
        changed = update(Webhook).where(*own).values(**values)
        session.execute(changed.execution_options(synchronize_session=False))
    return session.scalar(select(Webhook).where(*own).execution_options(populate_existing=True))


def joined(events: Sequence[str]) -> str:
    return " " + " ".join(dict.fromkeys(events)) + " "
