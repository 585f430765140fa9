"""Projects: the tenants. An operator makes them; everybody else sees the own."""

from __future__ import annotations

from fastapi import APIRouter, Response
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.access_documents import ProjectDocument, QuotasDocument, project_document
from api.access_schemas import ProjectChange, ProjectRequest
from api.auth import AdminRoute, Calling, insufficient_scope
from api.pages import After, Limit, Page, RowId, missing
from api.problems import EVERYWHERE, JSON_BODY, Problem, documented
from api.services import Here, Services
from store import audit, quotas
from store.database import now
from store.ids import new_id
from store.keys import Caller
from store.tables import ApiKey, Project, TrustRule

router = APIRouter(tags=["access"], route_class=AdminRoute)


def reachable(session: Session, caller: Caller, project_id: str, lock: bool = False) -> Project | None:
    """The caller's own project; to an operator every one."""
    if project_id != caller.project_id and not caller.is_operator:
        return None
    wanted = select(Project).where(Project.id == project_id)
    return session.scalar(wanted.with_for_update() if lock else wanted)


@router.post("/projects", status_code=201, responses=documented(*EVERYWHERE, *JSON_BODY))
def create_project(given: ProjectRequest, response: Response, services: Here, caller: Calling) -> ProjectDocument:
    """An operator's key is needed. Then make the project's first key: POST /v1/keys with `project`."""
    if not caller.is_operator:
        raise insufficient_scope("operator")
    with services.database.transaction() as session:
        row = Project(
            id=new_id("prj"),
            name=given.name,
            created_at=now(),
            max_live_jobs=given.quotas.live_jobs,
            max_stored_bytes=given.quotas.stored_bytes,
        )
        session.add(row)
        session.flush()
        session.refresh(row)
        audit.record(session, "project.create", row.id)
        created = _document(session, services, row)
    response.headers["Location"] = f"/v1/projects/{created.id}"
    return created


@router.get("/projects")
def list_projects(services: Here, caller: Calling, limit: Limit = 20, after: After = None) -> Page[ProjectDocument]:
    """An operator sees all."""
    wanted = select(Project).order_by(Project.id.desc()).limit(limit + 1)
    if not caller.is_operator:
        wanted = wanted.where(Project.id == caller.project_id)
    if after is not None:
        wanted = wanted.where(Project.id < after)
    with services.database.reading() as session:
        rows = list(session.scalars(wanted))
    has_more = len(rows) > limit
    rows = rows[:limit]
    data = [project_document(row, quotas.limits_of(row, services.settings), None) for row in rows]
    return Page(data=data, has_more=has_more, next_cursor=rows[-1].id if has_more else None)


@router.get("/projects/{project_id}", responses=documented(*EVERYWHERE, "not_found"))
def get_project(services: Here, caller: Calling, project_id: RowId) -> ProjectDocument:
    with services.database.reading() as session:
        row = reachable(session, caller, project_id)
        if row is None:
            raise missing(project_id)
        return _document(session, services, row)


@router.patch("/projects/{project_id}", responses=documented(*EVERYWHERE, *JSON_BODY, "not_found"))
def change_project(services: Here, caller: Calling, project_id: RowId, given: ProjectChange) -> ProjectDocument:
    """The name; and, with an operator's key, the quotas."""
    with services.database.transaction() as session:
        row = reachable(session, caller, project_id, lock=True)
        if row is None:
            raise missing(project_id)
        if given.name is not None:
            row.name = given.name
        if given.quotas is not None:
            if not caller.is_operator:
                raise insufficient_scope("operator")
            fields = given.quotas.model_fields_set
            row.max_live_jobs = given.quotas.live_jobs if "live_jobs" in fields else row.max_live_jobs
            row.max_stored_bytes = given.quotas.stored_bytes if "stored_bytes" in fields else row.max_stored_bytes
        audit.record(session, "project.change", row.id, changes=given.model_dump(mode="json", exclude_unset=True))
        session.flush()
        return _document(session, services, row)


@router.delete("/projects/{project_id}", status_code=204, responses=documented(*EVERYWHERE, "not_found", "in_use"))
def delete_project(services: Here, caller: Calling, project_id: RowId) -> None:
    """An operator's key is needed, of another project; and the project must hold no models, datasets or jobs. Its keys
    and trust rules go with it."""
    with services.database.transaction() as session:
        row = reachable(session, caller, project_id, lock=True)
        if row is None:
            raise missing(project_id)
        if not caller.is_operator:
            raise insufficient_scope("operator")
        if project_id == caller.project_id:
            raise Problem("in_use", "it is the project of the very key that asks; use another project's")
        try:
            for entity in (ApiKey, TrustRule):
                session.execute(delete(entity).where(entity.project_id == project_id))
            session.delete(row)
            session.flush()
        except IntegrityError:
            raise Problem("in_use", f"{project_id} holds models, datasets or jobs; delete them first") from None
        audit.record(session, "project.delete", project_id)


def _document(session: Session, services: Services, row: Project) -> ProjectDocument:
    usage = QuotasDocument(
        live_jobs=quotas.count_live_jobs(session, row.id), stored_bytes=quotas.count_stored_bytes(session, row.id)
    )
    return project_document(row, quotas.limits_of(row, services.settings), usage)
