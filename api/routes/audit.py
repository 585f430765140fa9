"""The audit log: who did what in the project, and what was refused."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.access_documents import AuditEntryDocument, audit_document
from api.auth import AdminRoute, ProjectId
from api.pages import After, Limit, Page
from api.schemas import Reference
from api.services import Here
from store import listing
from store.tables import AuditEntry

router = APIRouter(tags=["access"], route_class=AdminRoute)


@router.get("/audit_log")
def list_audit_log(
    services: Here,
    project_id: ProjectId,
    limit: Limit = 20,
    after: After = None,
    action: Annotated[str | None, Query(pattern=r"^[a-z_.]{1,60}$", description="such as key.create")] = None,
    target: Annotated[Reference | None, Query(description="the id of what it was done to")] = None,
    key: Annotated[Reference | None, Query(description="the id of the key that did it")] = None,
) -> Page[AuditEntryDocument]:
    """Newest first. An entry is written in the transaction of the change that it tells of."""
    filters = ((AuditEntry.action, action), (AuditEntry.object_id, target), (AuditEntry.key_id, key))
    conditions = [column == wanted for column, wanted in filters if wanted is not None]
    with services.database.reading() as session:
        rows, has_more = listing.page(session, AuditEntry, project_id, after, limit, *conditions)
    data = [audit_document(row) for row in rows]
    return Page(data=data, has_more=has_more, next_cursor=rows[-1].id if has_more else None)
