"""Trust rules: which CI's tokens are exchanged for a key of the project (`POST /v1/auth/token`)."""

from __future__ import annotations

from fastapi import APIRouter, Response
from sqlalchemy import update

from api.access_documents import TrustRuleDocument, trust_rule_document
from api.access_schemas import TrustRuleChange, TrustRuleRequest
from api.auth import AdminRoute, ProjectId
from api.issuers import Refused
from api.pages import After, Limit, Page, RowId, found
from api.problems import EVERYWHERE, JSON_BODY, Problem, documented
from api.services import Here
from store import audit, listing
from store.database import now
from store.ids import new_id
from store.tables import ApiKey, TrustRule

router = APIRouter(tags=["access"], route_class=AdminRoute)


@router.post("/trust_rules", status_code=201, responses=documented(*EVERYWHERE, *JSON_BODY))
def create_trust_rule(
    given: TrustRuleRequest, response: Response, services: Here, project_id: ProjectId
) -> TrustRuleDocument:
    """Nothing is fetched yet: the issuer is asked for its keys at the first exchange."""
    for field, url in (("issuer", given.issuer), ("jwks_url", given.jwks_url)):
        try:
            services.issuers.check_url(url or given.issuer)
        except Refused as error:
            raise Problem("invalid_request", str(error), param=f"/{field}") from None
    with services.database.transaction() as session:
        row = TrustRule(id=new_id("tr"), project_id=project_id, created_at=now(), **given.model_dump())
        session.add(row)
        session.flush()
        session.refresh(row)
        audit.record(session, "trust_rule.create", row.id, issuer=row.issuer, scopes=row.scopes)
        created = trust_rule_document(row)
    response.headers["Location"] = f"/v1/trust_rules/{created.id}"
    return created


@router.get("/trust_rules")
def list_trust_rules(
    services: Here, project_id: ProjectId, limit: Limit = 20, after: After = None
) -> Page[TrustRuleDocument]:
    with services.database.reading() as session:
        rows, has_more = listing.page(session, TrustRule, project_id, after, limit)
    data = [trust_rule_document(row) for row in rows]
    return Page(data=data, has_more=has_more, next_cursor=rows[-1].id if has_more else None)


@router.get("/trust_rules/{trust_rule_id}", responses=documented(*EVERYWHERE, "not_found"))
def get_trust_rule(services: Here, project_id: ProjectId, trust_rule_id: RowId) -> TrustRuleDocument:
    with services.database.reading() as session:
        return trust_rule_document(found(session, TrustRule, project_id, trust_rule_id))


@router.patch("/trust_rules/{trust_rule_id}", responses=documented(*EVERYWHERE, *JSON_BODY, "not_found"))
def change_trust_rule(
    services: Here, project_id: ProjectId, trust_rule_id: RowId, given: TrustRuleChange
) -> TrustRuleDocument:
    """For the tokens to come: keys that were given already stay as they are."""
    changes = given.model_dump(exclude_none=True)
    with services.database.transaction() as session:
        row = found(session, TrustRule, project_id, trust_rule_id, lock="change")
        for field, value in changes.items():
            setattr(row, field, value)
        audit.record(session, "trust_rule.change", row.id, changes=changes)
        session.flush()
        return trust_rule_document(row)


@router.delete("/trust_rules/{trust_rule_id}", status_code=204, responses=documented(*EVERYWHERE, "not_found"))
def delete_trust_rule(services: Here, project_id: ProjectId, trust_rule_id: RowId) -> None:
    """The keys that were given by it are revoked."""
    with services.database.transaction() as session:
        session.delete(found(session, TrustRule, project_id, trust_rule_id, lock="change"))
        given_by_it = (ApiKey.trust_rule_id == trust_rule_id) & ApiKey.revoked_at.is_(None)
        session.execute(update(ApiKey).where(given_by_it).values(revoked_at=now()))
        audit.record(session, "trust_rule.delete", trust_rule_id)
