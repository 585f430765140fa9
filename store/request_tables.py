"""The tables of what requests leave for later ones: uploads, and keys not done twice. `store.tables` has these, too."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index, PrimaryKeyConstraint, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from store.schema import Base


class Upload(Base):
    """A resumable upload. Its changes go through `store.uploads` and nothing else."""

    __tablename__ = "uploads"
    __table_args__ = (
        Index(None, "project_id", "id"),
        Index(None, "expires_at"),
        Index(None, "blob_digest"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    length_bytes: Mapped[int | None] = mapped_column(default=None)
    """Of the whole, once the client has said it; then it stays so."""
    offset_bytes: Mapped[int] = mapped_column(default=0)
    """How much has arrived and would survive a power cut. Never falls."""
    turn: Mapped[int] = mapped_column(default=0)
    """Only ever rises: the fencing token. The request that raised it last is the one whose content counts."""
    expected_digest: Mapped[str | None] = mapped_column(String(64), default=None)
    """What the client promised of the whole; null: nothing."""
    blob_digest: Mapped[str | None] = mapped_column(ForeignKey("blobs.digest"), default=None)
    """The whole; null until the upload is complete."""
    created_at: Mapped[float]
    expires_at: Mapped[float]


class UploadPart(Base):
    """Counted content of an upload that is not complete, in the order of `start_bytes`, without gaps."""

    __tablename__ = "upload_parts"

    name: Mapped[str] = mapped_column(String(81), primary_key=True)
    """Of its file or object, in the same place and form as a copy's name."""
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"), index=True)
    start_bytes: Mapped[int]
    size_bytes: Mapped[int]
    """What counts of it: its file may be longer."""


class IdempotencyKey(Base):
    """A request that is not done twice, and what it was answered: `store.idempotency`."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (PrimaryKeyConstraint("project_id", "route", "key"), Index(None, "expires_at"))

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    route: Mapped[str] = mapped_column(String(200))
    key: Mapped[str] = mapped_column(String(255))
    fingerprint: Mapped[str] = mapped_column(String(64))
    """sha256 of what was asked for, a streamed body aside."""
    content_digest: Mapped[str | None] = mapped_column(String(64), default=None)
    """sha256 of a streamed body, once it has come whole."""
    holder: Mapped[str] = mapped_column(String(40))
    """The request that does the work: the fencing token of a reservation."""
    status: Mapped[int | None] = mapped_column(default=None)
    """Of the answer; null: the work goes on."""
    headers: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    body: Mapped[str | None] = mapped_column(Text, default=None)
    expires_at: Mapped[float]
    """Of the answer; or of the reservation, which its holder renews while it works."""
