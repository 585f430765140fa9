"""The tables of who is told of jobs, and what is on its way there. `store.tables` has these, too."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index, PrimaryKeyConstraint, String
from sqlalchemy.orm import Mapped, mapped_column

from store.schema import Base


class Webhook(Base):
    """Where a project wants to hear of its jobs: `store.webhooks`."""

    __tablename__ = "webhooks"
    __table_args__ = (Index(None, "project_id", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    url: Mapped[str] = mapped_column(String(2000))
    events: Mapped[str] = mapped_column(String(400))
    """Types, each between two spaces, so that one LIKE finds it; or `*`, in the same manner."""
    description: Mapped[str] = mapped_column(String(400))
    enabled: Mapped[bool] = mapped_column(default=True)
    disabled_reason: Mapped[str | None] = mapped_column(String(400), default=None)
    """Where the service disabled it; null where its project did."""
    failing_since: Mapped[float | None] = mapped_column(default=None)
    """Since when every attempt failed; null: the last one went well, or none was made."""
    rotation: Mapped[int] = mapped_column(default=0)
    """Rises with every new secret, which derives from it."""
    rotated_at: Mapped[float | None] = mapped_column(default=None)
    created_at: Mapped[float]


class Delivery(Base):
    """One message to one webhook, written in the transaction of what it tells: `store.deliveries`."""

    __tablename__ = "deliveries"
    __table_args__ = (
        PrimaryKeyConstraint("webhook_id", "id"),
        Index(None, "next_attempt_at"),
        Index(None, "created_at"),
    )

    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    id: Mapped[str] = mapped_column(String(40))
    """Of the message: several webhooks may get the same one."""
    type: Mapped[str] = mapped_column(String(40))
    data: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(String(20))
    """pending, delivered or failed."""
    attempt: Mapped[int]
    """Only ever rises: the fencing token of whoever sends it."""
    attempts: Mapped[list[Any]]
    """{at, status_code, milliseconds, error} of the latest ones."""
    failures: Mapped[int]
    """Since it was made or asked for again: its place in the schedule of retries."""
    next_attempt_at: Mapped[float | None]
    """Null where it has ended. While somebody sends it, the end of the lease: should the sender die, it is due then."""
    created_at: Mapped[float]
