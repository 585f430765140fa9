"""The tables of who may do what, and who did. All others are in `store.tables`, which has these, too."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from store.schema import Base


class Project(Base):
    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[float]
    max_live_jobs: Mapped[int | None] = mapped_column(default=None)
    max_stored_bytes: Mapped[int | None] = mapped_column(default=None)
    """Quotas; null: the service's default."""


class ApiKey(Base):
    """Revoked ones stay, so that a key of the environment is not made again at the next start."""

    __tablename__ = "api_keys"
    __table_args__ = (Index(None, "project_id", "id"), Index(None, "expires_at"))

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(200))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    """sha256 of the key, which has 256 bits of chance: nothing to slow down a guesser for."""
    scopes: Mapped[list[Any]]
    """Of `store.keys.SCOPES`."""
    operator: Mapped[bool] = mapped_column(default=False)
    """May make projects, and keys in any."""
    created_at: Mapped[float]
    expires_at: Mapped[float | None] = mapped_column(default=None)
    revoked_at: Mapped[float | None] = mapped_column(default=None)
    last_used_at: Mapped[float | None] = mapped_column(default=None)
    """Up to a minute late: it is written after an answer, and not after each."""
    replaced_by: Mapped[str | None] = mapped_column(String(40), default=None)
    """The key that a rotation made of it."""
    trust_rule_id: Mapped[str | None] = mapped_column(String(40), default=None)
    """The rule that a CI's token was exchanged by; null: made by hand."""


class TrustRule(Base):
    """Whose tokens are exchanged for a key of the project: see `api.exchange`."""

    __tablename__ = "trust_rules"
    __table_args__ = (Index(None, "project_id", "id"), Index(None, "issuer"))

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(200))
    issuer: Mapped[str] = mapped_column(String(500))
    audience: Mapped[str] = mapped_column(String(500))
    jwks_url: Mapped[str | None] = mapped_column(String(500), default=None)
    """Null: the one that the issuer's discovery document names."""
    conditions: Mapped[dict[str, Any]]
    """Claim -> pattern, where * stands for any characters; all must hold."""
    scopes: Mapped[list[Any]]
    key_seconds: Mapped[int]
    created_at: Mapped[float]


class ExchangedToken(Base):
    """One row for each token that a key was given for, until the token has expired."""

    __tablename__ = "exchanged_tokens"
    __table_args__ = (Index(None, "expires_at"),)

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    expires_at: Mapped[float]


class AuditEntry(Base):
    """Who did what. It refers to nothing by foreign key: it stays when what it tells of is gone."""

    __tablename__ = "audit_log"
    __table_args__ = (Index(None, "project_id", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(40))
    at: Mapped[float]
    key_id: Mapped[str | None] = mapped_column(String(40))
    """Null: nobody with a key; a token that was exchanged or refused."""
    action: Mapped[str] = mapped_column(String(60))
    object_id: Mapped[str | None] = mapped_column(String(40))
    outcome: Mapped[str] = mapped_column(String(20))
    request_id: Mapped[str] = mapped_column(String(128))
    detail: Mapped[dict[str, Any]]
