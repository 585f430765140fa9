"""Who calls: projects and their API keys, hashed at rest."""

from __future__ import annotations

import hashlib
import secrets

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from store.database import now, one_at_a_time
from store.ids import new_id
from store.tables import ApiKey, Project


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def ensure_first_key(session: Session, given: str | None) -> str | None:
    """A first project with a key: the given one, else a new one where there is none. The key, if it was made here."""
    one_at_a_time(session)  # of several machines that start at once
    if given is not None:
        if session.scalar(select(ApiKey.id).where(ApiKey.digest == digest_of(given))) is None:
            _add_key(session, _first_project(session), "given by ESPALIER_API_KEY", given)
        return None
    if session.scalar(select(ApiKey.id).limit(1)) is not None:
        return None
    made = f"esp_{secrets.token_urlsafe(32)}"
    _add_key(session, _first_project(session), "first key", made)
    return made


def project_of(session: Session, key: str) -> str | None:
    """The project that a key opens, or None where it opens none (unknown or expired)."""
    alive = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now())
    return session.scalar(select(ApiKey.project_id).where(ApiKey.digest == digest_of(key), alive))


def _first_project(session: Session) -> str:
    project_id = session.scalar(select(Project.id).order_by(Project.id).limit(1))
    if project_id is None:
        project_id = new_id("prj")
        session.add(Project(id=project_id, name="default", created_at=now()))
        session.flush()
    return project_id


def _add_key(session: Session, project_id: str, name: str, key: str) -> None:
    session.add(ApiKey(id=new_id("key"), project_id=project_id, name=name, digest=digest_of(key), created_at=now()))
