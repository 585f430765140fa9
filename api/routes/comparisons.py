"""Comparisons: made, listed, polled, deleted, and their jobs canceled, paused, resumed and retried together."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from fastapi import APIRouter, Header, Query, Request, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from api.auth import KeyedRoute, ProjectId
from api.comparing import comparing
from api.comparison_documents import (
    ComparisonDocument,
    ComparisonPlanDocument,
    budget_of,
    comparison_documents,
    plan_document,
    without_seed,
)
from api.comparison_filters import ComparisonFilters
from api.comparison_schemas import ComparisonRequest
from api.conditional import is_current
from api.idempotency import Once, OnceOnly, in_one_transaction
from api.job_filters import METADATA_PARAMETER
from api.long_polls import answered
from api.pages import After, Limit, Page, RowId, found, missing
from api.plans import columns
from api.problems import EVERYWHERE, Problem, documented
from api.services import Here, Services
from store import comparisons, listing, quotas
from store.comparisons import NotAllowed, Whole
from store.tables import Comparison, JobStatus
from store.transitions import Trigger

router = APIRouter(tags=["comparisons"], route_class=KeyedRoute)

ValidateOnly = Annotated[bool, Query(description="check, fill in and count; store nothing (200)")]


@router.post(
    "/comparisons",
    status_code=201,
    response_model=ComparisonDocument,
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
    | {200: {"model": ComparisonPlanDocument, "description": "`validate_only`: what would be done"}},
)
@in_one_transaction
def create_comparison(
    given: ComparisonRequest,
    response: Response,
    services: Here,
    project_id: ProjectId,
    once: OnceOnly,
    validate_only: ValidateOnly = False,
) -> ComparisonDocument | Response:
    """Try several recipes, each with several seeds, on one model and dataset under one budget. All of its jobs are made
    at once, or none."""
    settings = services.settings
    if validate_only:
        with services.database.reading() as session:
            planned = plan_document(session, given, comparing(session, project_id, given), settings)
        return JSONResponse(planned.model_dump(mode="json"))
    with services.database.transaction() as session:
        if (before := once.before(session)) is not None:
            return before
        compared = comparing(session, project_id, given, lock="refer")
        by_recipe = [
            [columns(asked, planned.admitted, settings) for asked in planned.requests(given)]
            for planned in compared.recipes
        ]
        # Seed by seed, so that all recipes have something to show early.
        parts = [(index, one) for several in zip(*by_recipe, strict=True) for index, one in enumerate(several)]
        row = comparisons.submit(
            session,
            project_id,
            parts,
            model_id=given.model,
            dataset_id=given.dataset,
            recipes=[
                {"name": planned.name, "recipe": without_seed(planned.recipe.to_json())} for planned in compared.recipes
            ],
            seeds=given.seeds,
            goal=compared.goal.model_dump(),
            gates=[gate.model_dump() for gate in given.gates],
            asked={"budget": budget_of(given), "controls": list(given.controls), "metadata": given.metadata},
        )
        quotas.check(session, project_id, settings, has_new_job=True)
        [created] = comparison_documents(session, [row])
        location = f"/v1/comparisons/{created.id}"
        once.keep(session, created, 201, location)
        [whole] = comparisons.read(session, [row])
    _ring(services, whole)
    response.headers["Location"] = location
    return created


@router.get("/comparisons", openapi_extra=METADATA_PARAMETER)
def list_comparisons(
    services: Here, project_id: ProjectId, filters: ComparisonFilters, limit: Limit = 20, after: After = None
) -> Page[ComparisonDocument]:
    """Newest first; those that meet all of the filters."""
    with services.database.reading() as session:
        rows, has_more = listing.page(session, Comparison, project_id, after, limit, *filters)
        data = comparison_documents(session, rows)
    return Page(data=data, has_more=has_more, next_cursor=rows[-1].id if has_more else None)


@router.get(
    "/comparisons/{comparison_id}",
    response_model=ComparisonDocument,
    responses=documented(*EVERYWHERE, "not_found")
    | {304: {"description": "nothing has changed since `If-None-Match`"}},
)
async def get_comparison(
    request: Request,
    services: Here,
    project_id: ProjectId,
    comparison_id: RowId,
    prefer: Annotated[
        str | None,
        Header(description="`wait=30`, with `If-None-Match`: answered when a job of it changes, or after 30 s"),
    ] = None,
) -> Response:
    """Polled as a job is: `ETag` and `If-None-Match`, `Prefer: wait=30`, `Retry-After`."""

    async def read() -> _Seen:
        return await run_in_threadpool(_see, services, project_id, comparison_id)

    return await answered(request, services.waiting, project_id, comparison_id, prefer, read, _answer)


class _Seen(NamedTuple):
    etag: str
    done: bool
    body: bytes


def _see(services: Services, project_id: str, comparison_id: str) -> _Seen:
    with services.database.reading() as session:
        row = found(session, Comparison, project_id, comparison_id)
        [whole] = comparisons.read(session, [row])
        [document] = comparison_documents(session, [row])
    return _Seen(f'"{whole.etag}"', document.done, document.model_dump_json().encode())


def _answer(request: Request, seen: _Seen) -> Response:
    headers = {"ETag": seen.etag}
    if not seen.done:
        headers["Retry-After"] = "2"
    if is_current(request, seen.etag):
        return Response(status_code=304, headers=headers)
    return Response(seen.body, headers=headers, media_type="application/json")


@router.delete(
    "/comparisons/{comparison_id}",
    status_code=204,
    responses=documented(*EVERYWHERE, "not_found", "invalid_transition"),
)
def delete_comparison(
    services: Here,
    project_id: ProjectId,
    comparison_id: RowId,
    keep_jobs: Annotated[bool, Query(description="they stay as jobs of their own, with all they have")] = False,
) -> None:
    """With its jobs, their rounds and artifacts, once all of them have ended; model and dataset stay."""
    try:
        with services.database.transaction() as session:
            if not comparisons.remove(session, project_id, comparison_id, keep_jobs):
                raise missing(comparison_id)
    except NotAllowed as error:
        raise _not_allowed(error) from error


_VERB = documented(*EVERYWHERE, "not_found", "invalid_transition")


@router.post("/comparisons/{comparison_id}/cancel", response_model=ComparisonDocument, responses=_VERB)
@in_one_transaction
def cancel_comparison(
    services: Here, project_id: ProjectId, comparison_id: RowId, once: OnceOnly
) -> ComparisonDocument | Response:
    """Every job that has not ended; completed rounds are kept. Safe to repeat."""
    return _order(services, project_id, comparison_id, Trigger.CANCEL, once)


@router.post("/comparisons/{comparison_id}/pause", response_model=ComparisonDocument, responses=_VERB)
@in_one_transaction
def pause_comparison(
    services: Here, project_id: ProjectId, comparison_id: RowId, once: OnceOnly
) -> ComparisonDocument | Response:
    """Every job that waits or runs. Safe to repeat."""
    return _order(services, project_id, comparison_id, Trigger.PAUSE, once)


@router.post("/comparisons/{comparison_id}/resume", response_model=ComparisonDocument, responses=_VERB)
@in_one_transaction
def resume_comparison(
    services: Here, project_id: ProjectId, comparison_id: RowId, once: OnceOnly
) -> ComparisonDocument | Response:
    """Every job that is paused goes back into the queue. Safe to repeat."""
    return _order(services, project_id, comparison_id, Trigger.RESUME, once)


@router.post(
    "/comparisons/{comparison_id}/retry",
    response_model=ComparisonDocument,
    responses=documented(*EVERYWHERE, "not_found", "invalid_transition", "quota_exceeded"),
)
@in_one_transaction
def retry_comparison(
    services: Here, project_id: ProjectId, comparison_id: RowId, once: OnceOnly
) -> ComparisonDocument | Response:
    """Every job that failed or was canceled is made again, and takes its place. Safe to repeat."""
    try:
        with services.database.transaction() as session:
            if (before := once.before(session)) is not None:
                return before
            made = comparisons.retry(session, project_id, comparison_id)
            if made is None:
                raise missing(comparison_id)
            whole, num_new = made
            if num_new:
                quotas.check(session, project_id, services.settings, has_new_job=True)
            document = _kept(session, whole, once)
    except NotAllowed as error:
        raise _not_allowed(error) from error
    _ring(services, whole)
    return document


def _order(
    services: Services, project_id: str, comparison_id: str, verb: Trigger, once: Once
) -> ComparisonDocument | Response:
    try:
        with services.database.transaction() as session:
            if (before := once.before(session)) is not None:
                return before
            whole = comparisons.order(session, project_id, comparison_id, verb)
            if whole is None:
                raise missing(comparison_id)
            document = _kept(session, whole, once)
    except NotAllowed as error:
        raise _not_allowed(error) from error
    if verb is Trigger.RESUME:
        _ring(services, whole)
    return document


def _kept(session: Session, whole: Whole, once: Once) -> ComparisonDocument:
    [document] = comparison_documents(session, [whole.comparison])
    once.keep(session, document)
    return document


def _ring(services: Services, whole: Whole) -> None:
    """Once for each job that waits."""
    for job in whole.parts.values():
        if job.status == JobStatus.QUEUED:
            services.bell.ring(job.pool)


def _not_allowed(error: NotAllowed) -> Problem:
    return Problem("invalid_transition", str(error), allowed=error.allowed)
