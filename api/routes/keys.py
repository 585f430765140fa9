"""API keys: made, listed, changed, revoked, rotated. The key itself is shown once, and stored nowhere."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.access_documents import KeyDocument, NewKeyDocument, key_document, new_key_document
from api.access_schemas import KeyChange, KeyRequest, RotationRequest
from api.auth import AdminRoute, Calling, insufficient_scope
from api.pages import After, Limit, Page, RowId, missing
from api.problems import EVERYWHERE, JSON_BODY, Problem, documented
from api.routes.projects import reachable
from api.schemas import Reference
from api.services import Here
from store import audit, listing
from store.database import now
from store.keys import SCOPES, Caller, add_key
from store.tables import ApiKey

router = APIRouter(tags=["access"], route_class=AdminRoute)


@router.post("/keys", status_code=201, responses=documented(*EVERYWHERE, *JSON_BODY))
def create_key(given: KeyRequest, response: Response, services: Here, caller: Calling) -> NewKeyDocument:
    """The answer holds the key, this once."""
    if given.operator and not caller.is_operator:
        raise insufficient_scope("operator")
    with services.database.transaction() as session:
        project_id = _project(session, caller, given.project, "/project")
        row, key = add_key(
            session,
            project_id=project_id,
            name=given.name,
            scopes=given.scopes,
            operator=given.operator,
            expires_at=given.expires_at and given.expires_at.timestamp(),
        )
        audit.record(session, "key.create", row.id, project_id=project_id, scopes=row.scopes, operator=row.operator)
        created = new_key_document(row, _now(session), key)
    response.headers["Location"] = f"/v1/keys/{created.id}"
    response.headers["Cache-Control"] = "no-store"
    return created


@router.get("/keys")
def list_keys(
    services: Here,
    caller: Calling,
    limit: Limit = 20,
    after: After = None,
    project: Annotated[Reference | None, Query(description="an operator's choice")] = None,
) -> Page[KeyDocument]:
    """Of the project, revoked ones too; those that CI's tokens were exchanged for, until a day after their end."""
    with services.database.reading() as session:
        project_id = _project(session, caller, project, "query:project")
        rows, has_more = listing.page(session, ApiKey, project_id, after, limit)
        at = _now(session)
    data = [key_document(row, at) for row in rows]
    return Page(data=data, has_more=has_more, next_cursor=rows[-1].id if has_more else None)


@router.get("/keys/{key_id}", responses=documented(*EVERYWHERE, "not_found"))
def get_key(services: Here, caller: Calling, key_id: RowId) -> KeyDocument:
    with services.database.reading() as session:
        return key_document(_found(session, caller, key_id), _now(session))


@router.patch("/keys/{key_id}", responses=documented(*EVERYWHERE, *JSON_BODY, "not_found"))
def change_key(services: Here, caller: Calling, key_id: RowId, given: KeyChange) -> KeyDocument:
    """Name, scopes and expiry of a key that is alive."""
    with services.database.transaction() as session:
        row = _changeable(session, caller, key_id)
        if given.name is not None:
            row.name = given.name
        if given.scopes is not None:
            row.scopes = [scope for scope in SCOPES if scope in given.scopes]
        if "expires_at" in given.model_fields_set:
            row.expires_at = given.expires_at.timestamp() if given.expires_at is not None else None
        changes = given.model_dump(mode="json", exclude_unset=True)
        audit.record(session, "key.change", row.id, project_id=row.project_id, changes=changes)
        session.flush()
        return key_document(row, _now(session))


@router.delete("/keys/{key_id}", status_code=204, responses=documented(*EVERYWHERE, "not_found"))
def revoke_key(services: Here, caller: Calling, key_id: RowId) -> None:
    """From now on it opens nothing. Safe to repeat; the key stays in the list."""
    with services.database.transaction() as session:
        row = _own(session, caller, key_id)
        is_changed = row.revoked_at is None
        if is_changed:
            row.revoked_at = _now(session)
        outcome: audit.Outcome = "done" if is_changed else "unchanged"
        audit.record(session, "key.revoke", row.id, project_id=row.project_id, outcome=outcome)


@router.post("/keys/{key_id}/rotate", status_code=201, responses=documented(*EVERYWHERE, *JSON_BODY, "not_found"))
def rotate_key(
    services: Here, caller: Calling, key_id: RowId, given: RotationRequest, response: Response
) -> NewKeyDocument:
    """A new key with the same name and scopes. The old one opens the project for `overlap_seconds` more."""
    with services.database.transaction() as session:
        old = _changeable(session, caller, key_id)
        if old.replaced_by is not None:
            raise _unfit(f"was rotated before; rotate {old.replaced_by}")
        at = _now(session)
        if given.expires_at is not None:
            expires_at: float | None = given.expires_at.timestamp()
        else:
            expires_at = None if old.expires_at is None else at + (old.expires_at - old.created_at)
        row, key = add_key(
            session,
            project_id=old.project_id,
            name=old.name,
            scopes=old.scopes,
            operator=old.operator,
            expires_at=expires_at,
        )
        old.replaced_by = row.id
        old.expires_at = min(at + given.overlap_seconds, old.expires_at or float("inf"))
        audit.record(session, "key.rotate", old.id, project_id=old.project_id, replaced_by=row.id)
        created = new_key_document(row, at, key)
    response.headers["Location"] = f"/v1/keys/{created.id}"
    response.headers["Cache-Control"] = "no-store"
    return created


def _now(session: Session) -> float:
    return session.scalars(select(now())).one()


def _project(session: Session, caller: Caller, given: str | None, param: str) -> str:
    if given is not None and reachable(session, caller, given) is None:
        raise Problem("not_found", f"there is no project {given}", param=param, status=422)
    return given or caller.project_id


def _found(session: Session, caller: Caller, key_id: str, lock: bool = False) -> ApiKey:
    wanted = select(ApiKey).where(ApiKey.id == key_id)
    if not caller.is_operator:
        wanted = wanted.where(ApiKey.project_id == caller.project_id)
    row = session.scalar(wanted.with_for_update() if lock else wanted)
    if row is None:
        raise missing(key_id)
    return row


def _own(session: Session, caller: Caller, key_id: str) -> ApiKey:
    """Locked. An admin of the project must not become its operator by rotating the operator's key."""
    row = _found(session, caller, key_id, lock=True)
    if row.operator and not caller.is_operator:
        raise insufficient_scope("operator")
    return row


def _changeable(session: Session, caller: Caller, key_id: str) -> ApiKey:
    row = _own(session, caller, key_id)
    if row.trust_rule_id is not None:
        raise _unfit("was given for a CI's token, and ends with it; exchange another token")
    if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= _now(session)):
        raise _unfit("is revoked or has expired; make a new one")
    return row


def _unfit(why: str) -> Problem:
    return Problem("invalid_request", f"the key {why}", param="path:key_id")
