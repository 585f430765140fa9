"""Jobs: made, listed, changed, deleted, canceled, paused, resumed, retried."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from starlette.responses import JSONResponse

from api.admission import admit
from api.auth import KeyedRoute, ProjectId
from api.documents import JobDocument, PlanDocument
from api.extras import check_extras
from api.idempotency import Once, OnceOnly, in_one_transaction
from api.job_documents import job_documents
from api.job_filters import METADATA_PARAMETER, JobFilters
from api.pages import After, Limit, Page, RowId, missing
from api.plans import columns, plan_document
from api.problems import EVERYWHERE, JSON_BODY, Problem, documented
from api.schemas import JobChange, JobRequest
from api.services import Here, Services
from store import audit, jobs, labels, listing, quotas, retention, retries
from store.tables import Job, JobStatus
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
        "extra_missing",
        "quota_exceeded",
        "insufficient_storage",
    )
    | {200: {"model": PlanDocument, "description": "`validate_only`: what would be done"}},
)
@in_one_transaction
def create_job(
    given: JobRequest,
    response: Response,
    services: Here,
    project_id: ProjectId,
    once: OnceOnly,
    validate_only: ValidateOnly = False,
) -> JobDocument | Response:
    """Prune a ready model on a ready dataset. What can be known to be wrong is refused here, before any training."""
    pool = given.pool or services.settings.default_pool
    if validate_only:
        with services.database.reading() as session:
            check_extras(session, given, pool, services.settings.heartbeat_seconds)
            planned = plan_document(session, given, admit(session, project_id, given), services.settings)
        return JSONResponse(planned.model_dump(mode="json"))
    with services.database.transaction() as session:
        if (before := once.before(session)) is not None:
            return before
        check_extras(session, given, pool, services.settings.heartbeat_seconds)
        admitted = admit(session, project_id, given, lock="refer")
        job = jobs.submit(session, project_id=project_id, **columns(given, admitted, services.settings))
        quotas.check(session, project_id, services.settings, has_new_job=True)
        [created] = job_documents(session, [job])
        location = f"/v1/jobs/{created.id}"
        once.keep(session, created, 201, location)
    services.bell.ring(pool)
    response.headers["Location"] = location
    return created


@router.get("/jobs", openapi_extra=METADATA_PARAMETER)
def list_jobs(
    services: Here, project_id: ProjectId, filters: JobFilters, limit: Limit = 20, after: After = None
) -> Page[JobDocument]:
    """Newest first; those that meet all of the filters."""
    with services.database.reading() as session:
        rows, has_more = listing.page(session, Job, project_id, after, limit, *filters)
        data = job_documents(session, rows)
    return Page(data=data, has_more=has_more, next_cursor=rows[-1].id if has_more else None)


@router.patch("/jobs/{job_id}", responses=documented(*EVERYWHERE, *JSON_BODY, "not_found", "invalid_transition"))
def change_job(given: JobChange, services: Here, project_id: ProjectId, job_id: RowId) -> JobDocument:
    """Labels at any time; the priority until the job has ended, and it matters while the job is queued."""
    try:
        with services.database.transaction() as session:
            job = labels.change_job(session, project_id, job_id, given.metadata, given.priority)
            if job is None:
                raise missing(job_id)
            [document] = job_documents(session, [job])
    except labels.TooManyLabels as error:
        raise Problem("invalid_request", str(error), param="/metadata") from error
    except InvalidTransition as error:
        raise Problem("invalid_transition", str(error), param="/priority", allowed=error.allowed) from error
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


@router.post(
    "/jobs/{job_id}/cancel",
    response_model=JobDocument,
    responses=documented(*EVERYWHERE, "not_found", "invalid_transition"),
)
@in_one_transaction
def cancel_job(services: Here, project_id: ProjectId, job_id: RowId, once: OnceOnly) -> JobDocument | Response:
    """Completed rounds are kept. A running job stops shortly after. Safe to repeat."""
    return _order(services, project_id, job_id, Trigger.CANCEL, once)


@router.post(
    "/jobs/{job_id}/pause",
    response_model=JobDocument,
    responses=documented(*EVERYWHERE, "not_found", "invalid_transition"),
)
@in_one_transaction
def pause_job(services: Here, project_id: ProjectId, job_id: RowId, once: OnceOnly) -> JobDocument | Response:
    """Goes on from its last stored round when it is resumed. Safe to repeat."""
    return _order(services, project_id, job_id, Trigger.PAUSE, once)


@router.post(
    "/jobs/{job_id}/resume",
    response_model=JobDocument,
    responses=documented(*EVERYWHERE, "not_found", "invalid_transition"),
)
@in_one_transaction
def resume_job(services: Here, project_id: ProjectId, job_id: RowId, once: OnceOnly) -> JobDocument | Response:
    """Back into the queue. Safe to repeat."""
    return _order(services, project_id, job_id, Trigger.RESUME, once)


def _order(services: Services, project_id: str, job_id: str, verb: Trigger, once: Once) -> JobDocument | Response:
    try:
        with services.database.transaction() as session:
            if (before := once.before(session)) is not None:
                return before
            job = jobs.order(session, project_id, job_id, verb)
            if job is None:
                raise missing(job_id)
            [document] = job_documents(session, [job])
            once.keep(session, document)
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
@in_one_transaction
def retry_job(
    response: Response, services: Here, project_id: ProjectId, job_id: RowId, once: OnceOnly
) -> JobDocument | Response:
    """A new job with all that the ended one was asked for, from its start. Safe to repeat: a retry that has not ended
    is answered again (200)."""
    try:
        with services.database.transaction() as session:
            if (before := once.before(session)) is not None:
                return before
            made = retries.retry(session, project_id, job_id)
            if made is None:
                raise missing(job_id)
            job, is_new = made
            if is_new:
                quotas.check(session, project_id, services.settings, has_new_job=True)
            [document] = job_documents(session, [job])
            status, location = 201 if is_new else 200, f"/v1/jobs/{document.id}"
            once.keep(session, document, status, location)
    except InvalidTransition as error:
        raise Problem("invalid_transition", str(error), allowed=error.allowed) from error
    if job.status == JobStatus.QUEUED:
        services.bell.ring(job.pool)
    response.status_code = status
    response.headers["Location"] = location
    return document
