"""Who may do what: keys, projects, trust rules for CI, and the log of it. For a key with the scope admin."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from espalier.shapes import AuditEntry, Key, NewKey, Project, TrustRule
from espalier.transport import Transport
from espalier.transport import api_path as _path


class Access:
    """The part of `AsyncClient` that does this. Of `fields` see docs/api.md; what is left out stays."""

    _transport: Transport

    async def create_key(
        self, /, name: str, scopes: list[str], *, expires_at: str | None = None, **fields: Any
    ) -> NewKey:
        """Scopes: read, write, ops, admin. `key` is the key itself, shown this once; `expires_at` is RFC 3339."""
        body = {"name": name, "scopes": scopes, "expires_at": expires_at, **fields}
        made: NewKey = await self._transport.post("/v1/keys", body)
        return made

    async def key(self, key_id: str) -> Key:
        key: Key = await self._transport.get(_path("keys", key_id))
        return key

    def keys(self, /, **filters: Any) -> AsyncGenerator[Key, None]:
        """Of the project, or, with an operator's key, of the one that `project` names."""
        return self._transport.pages("/v1/keys", **filters)

    async def update_key(self, /, key_id: str, **fields: Any) -> Key:
        """`name`, `scopes`, `expires_at`."""
        key: Key = await self._transport.patch(_path("keys", key_id), fields)
        return key

    async def rotate_key(self, key_id: str, *, overlap_seconds: int = 3600) -> NewKey:
        """A new key in place of an old one, which lives on for `overlap_seconds`."""
        made: NewKey = await self._transport.post(_path("keys", key_id, "rotate"), {"overlap_seconds": overlap_seconds})
        return made

    async def revoke_key(self, key_id: str) -> None:
        """At once. Safe to repeat; a key that never was is NotFound."""
        path = _path("keys", key_id)
        await self._transport.patiently(lambda: self._transport.send("DELETE", path))

    # Projects, for an operator's key

    async def create_project(self, /, name: str, **fields: Any) -> Project:
        """`quotas={"live_jobs": ..., "stored_bytes": ...}`. Then its first key: `create_key(..., project=id)`."""
        project: Project = await self._transport.post("/v1/projects", {"name": name, **fields})
        return project

    async def project(self, project_id: str) -> Project:
        project: Project = await self._transport.get(_path("projects", project_id))
        return project

    def projects(self) -> AsyncGenerator[Project, None]:
        return self._transport.pages("/v1/projects")

    async def update_project(self, /, project_id: str, **fields: Any) -> Project:
        """`name`; and, with an operator's key, `quotas`."""
        project: Project = await self._transport.patch(_path("projects", project_id), fields)
        return project

    async def delete_project(self, project_id: str) -> None:
        """Once it is empty. It may be gone already."""
        await self._transport.delete(_path("projects", project_id))

    # Trust rules: which tokens of a CI are exchanged for a key

    async def create_trust_rule(
        self, /, name: str, *, issuer: str, audience: str, conditions: dict[str, str], scopes: list[str], **fields: Any
    ) -> TrustRule:
        """Conditions such as `{"repository": "octo-org/network", "ref": "refs/heads/main"}`; all must hold."""
        body = {"name": name, "issuer": issuer, "audience": audience, "conditions": conditions, "scopes": scopes}
        rule: TrustRule = await self._transport.post("/v1/trust_rules", {**body, **fields})
        return rule

    async def trust_rule(self, trust_rule_id: str) -> TrustRule:
        rule: TrustRule = await self._transport.get(_path("trust_rules", trust_rule_id))
        return rule

    def trust_rules(self) -> AsyncGenerator[TrustRule, None]:
        return self._transport.pages("/v1/trust_rules")

    async def update_trust_rule(self, /, trust_rule_id: str, **fields: Any) -> TrustRule:
        """For the tokens to come: keys that were given already stay as they are."""
        rule: TrustRule = await self._transport.patch(_path("trust_rules", trust_rule_id), fields)
        return rule

    async def delete_trust_rule(self, trust_rule_id: str) -> None:
        """The keys that were given by it are revoked. It may be gone already."""
        await self._transport.delete(_path("trust_rules", trust_rule_id))

    def audit_log(self, /, **filters: Any) -> AsyncGenerator[AuditEntry, None]:
        """Newest first; filters: `action`, `target`, `key`."""
        return self._transport.pages("/v1/audit_log", **filters)
