"""Who calls: projects and their API keys, hashed at rest."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, and_, or_, select, update
from sqlalchemy.orm import Session

from store.database import now, one_at_a_time
from store.ids import new_id
from store.tables import ApiKey, Project

Scope = Literal["read", "write", "ops", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""admin implies the others. All are of the key's own project: an operator's key reaches beyond it, see `Caller`."""

USE_SECONDS = 60.0
"""How exact `last_used_at` is: a write for every request would cost more than most requests."""


@dataclass(frozen=True)
class Caller:
    key_id: str
    project_id: str
    scopes: frozenset[str]
    is_operator: bool
    """Administers all projects and their keys, as far as its scopes reach; it sees no rows of other projects."""
    is_use_due: bool
    """`last_used_at` is older than USE_SECONDS."""

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or "admin" in self.scopes


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def is_alive() -> ColumnElement[bool]:
    return and_(ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now()))


def is_use_due() -> ColumnElement[bool]:
    return or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < now() - USE_SECONDS)


def caller_of(session: Session, key: str) -> Caller | None:
    """One query by a unique index. None: the key opens nothing (unknown, expired or revoked)."""
    return _caller(session, ApiKey.digest == digest_of(key))


def caller_by_id(session: Session, key_id: str) -> Caller | None:
    """The same, for whoever has shown the key before."""
    return _caller(session, ApiKey.id == key_id)


def _caller(session: Session, named: ColumnElement[bool]) -> Caller | None:
    found = session.execute(
        select(ApiKey.id, ApiKey.project_id, ApiKey.scopes, ApiKey.operator, is_use_due().label("due")).where(
            named, is_alive()
        )
    ).first()
    if found is None:
        return None
    return Caller(found.id, found.project_id, frozenset(found.scopes), found.operator, bool(found.due))


def record_use(session: Session, key_id: str) -> None:
    session.execute(update(ApiKey).where(ApiKey.id == key_id, is_use_due()).values(last_used_at=now()))


def add_key(
    session: Session, *, project_id: str, name: str, scopes: Sequence[str], key: str | None = None, **columns: Any
) -> tuple[ApiKey, str]:
    """(the row, the key itself: it is stored nowhere)."""
    key = key or f"esp_{secrets.token_urlsafe(32)}"
    ordered = [scope for scope in SCOPES if scope in scopes]
    row = ApiKey(
        id=new_id("key"),
        project_id=project_id,
        name=name,
        digest=digest_of(key),
        scopes=ordered,
        created_at=now(),
        **columns,
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    return row, key


def ensure_first_key(session: Session, given: str | None) -> str | None:
    """A first project with an operator's key: the given one, else a new one where none is alive. The key, if it was
    made here: whoever revoked or lost them all starts the service again, and reads it."""
    one_at_a_time(session)  # of several machines that start at once
    if given is not None and session.scalar(select(ApiKey.id).where(ApiKey.digest == digest_of(given))) is None:
        _add_first(session, "given by ESPALIER_API_KEY", given)
        return None
    if session.scalar(select(ApiKey.id).where(ApiKey.operator, is_alive()).limit(1)) is not None:
        return None
    return _add_first(session, "first key", None)


def _add_first(session: Session, name: str, key: str | None) -> str:
    project_id = session.scalar(select(Project.id).order_by(Project.id).limit(1))
    if project_id is None:
        project_id = new_id("prj")
        session.add(Project(id=project_id, name="default", created_at=now()))
        session.flush()
    _, made = add_key(session, project_id=project_id, name=name, scopes=["admin"], key=key, operator=True)
    return made
