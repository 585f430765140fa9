"""Jobs: made, listed, read, canceled, paused, resumed, retried; and what happened to them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import ColumnElement
from starlette.responses import JSONResponse

from api.admission import Admitted, admit
from api.auth import KeyedRoute, ProjectId
from api.conditional import is_current
from api.documents import EventDocument, JobDocument, PlanDocument, PlannedRoundDocument
from api.heads import PROGRAM
from api.job_documents import job_documents
from api.pages import After, Limit, Page, RowId, found, missing
from api.problems import EVERYWHERE, Problem, documented
from api.schemas import REDUCED, JobRequest, Reference
from api.services import Here, Services
from store import audit, jobs, listing, quotas, retention, retries, traces
from store.settings import Settings
from store.tables import Job, JobStatus, Model
from store.transitions import InvalidTransition, Trigger

router = APIRouter(tags=["jobs"], route_class=KeyedRoute)

ValidateOnly = Annotated[bool, Query(description="check, fill in and plan; store nothing (200)")]


@router.post(
    "/jobs",
    status_code=201,
    response_model=JobDocument,
    responses=documented(
        *EVERYWHERE,
        "invalid_json",
        "too_large",
        "unsupported_media_type",
        "not_ready",
        "invalid_reference",
        "dataset_mismatch",
        "recipe_refused",
        "quota_exceeded",
        "insufficient_storage",
    )
    | {200: {"model": PlanDocument, "description": "`validate_only`: what would be done"}},
)
def create_job(
    given: JobRequest,
    response: Response,
    services: Here,
    project_id: ProjectId,
    validate_only: ValidateOnly = False,
) -> JobDocument | Response:
    """Prune a ready model on a ready dataset. What can be known to be wrong is refused here, before any training."""
    pool = given.pool or services.settings.default_pool
    if validate_only:
        with services.database.reading() as session:
            admitted = admit(session, project_id, given)
        return JSONResponse(_plan(given, admitted, pool).model_dump(mode="json"))
    with services.database.transaction() as session:
        admitted = admit(session, project_id, given, lock="refer")
        job = jobs.submit(session, project_id=project_id, **_columns(given, admitted, services.settings))
        quotas.check(session, project_id, services.settings, has_new_job=True)
        [created] = job_documents(session, [job])
    services.bell.ring(pool)
    response.headers["Location"] = f"/v1/jobs/{created.id}"
    return created


def _columns(given: JobRequest, admitted: Admitted, settings: Settings) -> dict[str, Any]:
    retention_seconds = settings.retention_days and settings.retention_days * 24 * 3600
    return {
        "model_id": admitted.model.id,
        "dataset_id": admitted.dataset.id,
        "recipe": given.recipe.to_json(),
        "gates": [gate.model_dump() for gate in given.gates],
        "select": given.select,
        "artifacts": list(dict.fromkeys(given.artifacts or _default_artifacts(given, admitted.model))),
        "pool": given.pool or settings.default_pool,
        "priority": given.priority,
        "max_failures": given.max_failures,
        "queue_timeout_seconds": given.queue_timeout_seconds,
        "deadline_seconds": given.deadline_seconds,
        "keep_rounds": given.keep_rounds,
        "expires_in_seconds": given.expires_in_seconds or retention_seconds,
        "options": {"cache": given.cache, "metadata": given.metadata},
        "planned_rounds": admitted.planned[-1].number,
        "traceparent": traces.current(),
    }


def _default_artifacts(given: JobRequest, model: Model) -> list[str]:
    """A network that came as a program goes back as one; what is cut out of a named one has no other form."""
    kinds = ["model", "masks", "ticket"] + ["program"] * (model.format == PROGRAM)
    return kinds + list(REDUCED) * (given.recipe.materialize is not None)


def _plan(given: JobRequest, admitted: Admitted, pool: str) -> PlanDocument:
    return PlanDocument(
        model=admitted.model.id,
        dataset=admitted.dataset.id,
        recipe=given.recipe.to_json(),
        gates=[gate.model_dump() for gate in given.gates],
        select=given.select,
        pool=pool,
        rounds=[
            PlannedRoundDocument(
                number=planned.number, sparsity=planned.sparsity, num_remaining=sum(planned.remaining.values())
            )
            for planned in admitted.planned
        ],
    )


@router.get("/jobs")
def list_jobs(
    services: Here,
    project_id: ProjectId,
    limit: Limit = 20,
    after: After = None,
    status: Annotated[list[JobStatus] | None, Query(description="may be given several times")] = None,
    model: Annotated[Reference | None, Query()] = None,
) -> Page[JobDocument]:
    conditions: list[ColumnElement[bool]] = []
    if status:
        conditions.append(Job.status.in_(status))
    if model:
        conditions.append(Job.model_id == model)
    with services.database.reading() as session:
        rows, has_more = listing.page(session, Job, project_id, after, limit, *conditions)
        data = job_documents(session, rows)
    return Page(data=data, has_more=has_more, next_cursor=rows[-1].id if has_more else None)


@router.get(
    "/jobs/{job_id}",
    response_model=JobDocument,
    responses=documented(*EVERYWHERE, "not_found")
    | {304: {"description": "nothing has changed since `If-None-Match`"}},
)
def get_job(
    request: Request, response: Response, services: Here, project_id: ProjectId, job_id: RowId
) -> JobDocument | Response:
    """Polling is cheap: send the last `ETag` as `If-None-Match`. The ETag stands for the job itself; `eta_seconds`
    and `queue_position` are those of the moment."""
    with services.database.reading() as session:
        job = found(session, Job, project_id, job_id)
        etag = f'"r{job.version}"'
        if is_current(request, etag):
            return Response(status_code=304, headers={"ETag": etag})
        [document] = job_documents(session, [job])
    response.headers["ETag"] = etag
    return document


@router.delete("/jobs/{job_id}", status_code=204, responses=documented(*EVERYWHERE, "not_found", "invalid_transition"))
def delete_job(services: Here, project_id: ProjectId, job_id: RowId) -> None:
    """With its rounds, events and artifacts, once it has ended; its model and dataset stay."""
    try:
        with services.database.transaction() as session:
            if not retention.delete_job(session, project_id, job_id):
                raise missing(job_id)
            audit.record(session, "job.delete", job_id)
    except retention.StillLive as error:
        allowed = InvalidTransition(error.status, Trigger.CANCEL).allowed
        raise Problem("invalid_transition", str(error), allowed=allowed) from error


@router.post("/jobs/{job_id}/cancel", responses=documented(*EVERYWHERE, "not_found", "invalid_transition"))
def cancel_job(services: Here, project_id: ProjectId, job_id: RowId) -> JobDocument:
    """Completed rounds are kept. A running job stops shortly after. Safe to repeat."""
    return _order(services, project_id, job_id, Trigger.CANCEL)


@router.post("/jobs/{job_id}/pause", responses=documented(*EVERYWHERE, "not_found", "invalid_transition"))
def pause_job(services: Here, project_id: ProjectId, job_id: RowId) -> JobDocument:
    """Goes on from its last stored round when it is resumed. Safe to repeat."""
    return _order(services, project_id, job_id, Trigger.PAUSE)


@router.post("/jobs/{job_id}/resume", responses=documented(*EVERYWHERE, "not_found", "invalid_transition"))
def resume_job(services: Here, project_id: ProjectId, job_id: RowId) -> JobDocument:
    """Back into the queue. Safe to repeat."""
    return _order(services, project_id, job_id, Trigger.RESUME)


def _order(services: Services, project_id: str, job_id: str, verb: Trigger) -> JobDocument:
    try:
        with services.database.transaction() as session:
            job = jobs.order(session, project_id, job_id, verb)
            if job is None:
                raise missing(job_id)
            [document] = job_documents(session, [job])
    except InvalidTransition as error:
        raise Problem("invalid_transition", str(error), allowed=error.allowed) from error
    if job.status == JobStatus.QUEUED:
        services.bell.ring(job.pool)
    return document


@router.post(
    "/jobs/{job_id}/retry",
    status_code=201,
    response_model=JobDocument,
    responses=documented(*EVERYWHERE, "not_found", "invalid_transition", "quota_exceeded")
    | {200: {"model": JobDocument, "description": "the retry that was made before, which has not ended"}},
)
def retry_job(response: Response, services: Here, project_id: ProjectId, job_id: RowId) -> JobDocument:
    """A new job with all that the ended one was asked for, from its start. Safe to repeat: a retry that has not ended
    is answered again (200)."""
    try:
        with services.database.transaction() as session:
            made = retries.retry(session, project_id, job_id)
            if made is None:
                raise missing(job_id)
            job, is_new = made
            if is_new:
                quotas.check(session, project_id, services.settings, has_new_job=True)
            [document] = job_documents(session, [job])
    except InvalidTransition as error:
        raise Problem("invalid_transition", str(error), allowed=error.allowed) from error
    if job.status == JobStatus.QUEUED:
        services.bell.ring(job.pool)
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/v1/jobs/{document.id}"
    return document


@router.get("/jobs/{job_id}/events", responses=documented(*EVERYWHERE, "not_found"))
def list_events(
    services: Here,
    project_id: ProjectId,
    job_id: RowId,
    limit: Limit = 100,
    after: Annotated[int, Query(ge=0, lt=2**62, description="a sequence number: what came later")] = 0,
) -> Page[EventDocument]:
    """What happened to the job, oldest first."""
    with services.database.reading() as session:
        job = found(session, Job, project_id, job_id)
        rows = jobs.events(session, job.id, after, limit + 1)
    data = [
        EventDocument(job=job_id, sequence=row.sequence, type=row.type, at=row.at, data=row.data)
        for row in rows[:limit]
    ]
    has_more = len(rows) > limit
    return Page(data=data, has_more=has_more, next_cursor=str(data[-1].sequence) if has_more else None)
