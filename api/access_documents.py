"""Projects, keys, trust rules, exchanged tokens and audit entries, as they are answered."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from api.idempotency import ShownOnce
from store.keys import Scope
from store.quotas import Limits
from store.tables import ApiKey, AuditEntry, Project, TrustRule


class QuotasDocument(BaseModel):
    live_jobs: int | None
    stored_bytes: int | None


class ProjectDocument(BaseModel):
    id: str
    object: Literal["project"] = "project"
    name: str
    quotas: QuotasDocument = Field(description="that hold, the service's defaults filled in; null: no limit")
    usage: QuotasDocument | None = Field(description="null in lists")
    created_at: datetime


class KeyDocument(BaseModel):
    id: str
    object: Literal["key"] = "key"
    project: str
    name: str
    scopes: list[Scope]
    operator: bool = Field(description="may make projects, and keys in any")
    status: Literal["active", "expired", "revoked"]
    trust_rule: str | None = Field(description="that a CI's token was exchanged by")
    replaced_by: str | None = Field(description="the key that a rotation made of it")
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="up to a minute late")


class NewKeyDocument(KeyDocument):
    key: ShownOnce = Field(description="the key itself, shown this once")


class TrustRuleDocument(BaseModel):
    id: str
    object: Literal["trust_rule"] = "trust_rule"
    name: str
    issuer: str
    audience: str
    jwks_url: str | None
    conditions: dict[str, str]
    scopes: list[Scope]
    key_seconds: int
    created_at: datetime


class TokenDocument(BaseModel):
    """As RFC 8693 answers."""

    access_token: str = Field(description="a key, for Authorization: Bearer")
    issued_token_type: Literal["urn:ietf:params:oauth:token-type:access_token"]
    token_type: Literal["Bearer"]
    expires_in: int = Field(description="seconds")
    scope: str = Field(description="separated by spaces")
    project: str
    key: str = Field(description="the id of the key")


class AuditEntryDocument(BaseModel):
    id: str
    object: Literal["audit_entry"] = "audit_entry"
    at: datetime
    key: str | None = Field(description="who; null: a CI's token, by no key")
    action: str = Field(examples=["job.cancel"])
    target: str | None = Field(description="the id of what it was done to")
    outcome: Literal["done", "unchanged", "refused"]
    request_id: str
    detail: dict[str, Any]


def project_document(row: Project, limits: Limits, usage: QuotasDocument | None) -> ProjectDocument:
    quotas = QuotasDocument(live_jobs=limits.live_jobs, stored_bytes=limits.stored_bytes)
    return ProjectDocument(id=row.id, name=row.name, quotas=quotas, usage=usage, created_at=row.created_at)


def key_document(row: ApiKey, at: float) -> KeyDocument:
    return KeyDocument(**_key(row, at))


def new_key_document(row: ApiKey, at: float, key: str) -> NewKeyDocument:
    return NewKeyDocument(**_key(row, at), key=key)


def _key(row: ApiKey, at: float) -> dict[str, Any]:
    is_expired = row.expires_at is not None and row.expires_at <= at
    return {
        "id": row.id,
        "project": row.project_id,
        "name": row.name,
        "scopes": row.scopes,
        "operator": row.operator,
        "status": "revoked" if row.revoked_at is not None else "expired" if is_expired else "active",
        "trust_rule": row.trust_rule_id,
        "replaced_by": row.replaced_by,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "last_used_at": row.last_used_at,
    }


def trust_rule_document(row: TrustRule) -> TrustRuleDocument:
    return TrustRuleDocument(
        id=row.id,
        name=row.name,
        issuer=row.issuer,
        audience=row.audience,
        jwks_url=row.jwks_url,
        conditions=row.conditions,
        scopes=row.scopes,
        key_seconds=row.key_seconds,
        created_at=row.created_at,
    )


def audit_document(row: AuditEntry) -> AuditEntryDocument:
    return AuditEntryDocument(
        id=row.id,
        at=row.at,
        key=row.key_id,
        action=row.action,
        target=row.object_id,
        outcome=row.outcome,
        request_id=row.request_id,
        detail=row.detail,
    )
