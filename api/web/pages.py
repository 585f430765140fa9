"""The dashboard's pages. What they show is what the API answers: its own functions are asked, and no others."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode

from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from sqlalchemy import or_, select
from sqlalchemy.orm import Session
from starlette.responses import Response

from api.auth import Calling, ProjectId, session_caller
from api.documents import EventDocument
from api.job_documents import job_documents
from api.job_filters import JobFilters
from api.pages import After, RowId, found
from api.problems import PROBLEMS, Problem
from api.routes.artifacts import list_artifacts
from api.routes.datasets import get_dataset, list_datasets
from api.routes.models import get_model, list_models
from api.routes.rounds import round_documents
from api.routes.workers import list_workers
from api.schemas import Reference
from api.services import Here
from api.web.login import to_login
from api.web.rendering import page
from pruning.strategies import STRATEGIES
from store import jobs, listing
from store.tables import Dataset, IntakeStatus, Job, JobStatus, Model, Round

MAX_EVENTS = 1000
MAX_COMPARED = 4
LIVE = (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSING, JobStatus.PAUSED, JobStatus.CANCELING)
ALLOWED = {
    "queued": ("pause", "cancel"),
    "running": ("pause", "cancel"),
    "pausing": ("cancel",),
    "paused": ("resume", "cancel"),
    "succeeded": ("retry",),
    "failed": ("retry",),
    "canceled": ("retry",),
}
"""The buttons of a job, by its status."""


class PageRoute(APIRoute):
    """A page of a project: without a session it is the login, and what is refused is a page, too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_page(request: Request) -> Response:
            try:
                caller = await session_caller(request)
                if caller is None:
                    return to_login(request)
                request.state.caller = caller
                if not caller.may("read"):
                    raise Problem("insufficient_scope", "this page needs a key with the scope read")
                # A form sends its empty fields, too: they ask for nothing.
                given = parse_qsl(request.scope["query_string"].decode("latin-1"))
                request.scope["query_string"] = urlencode(given).encode()
                return await handle(Request(request.scope, request.receive))
            except Problem as problem:
                title, status = PROBLEMS[problem.code].title, problem.status_code
                return page(request, "problem.html", status, title=title, detail=problem.detail)
            except RequestValidationError:
                detail = "A part of this address is not understood. Go back, and choose again."
                return page(request, "problem.html", 422, title=PROBLEMS["invalid_request"].title, detail=detail)

        return handle_page


router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/")
def overview(request: Request, services: Here, project_id: ProjectId, caller: Calling) -> Response:
    with services.database.reading() as session:
        live, more = listing.page(session, Job, project_id, None, 50, Job.status.in_(LIVE))
        ended, _ = listing.page(session, Job, project_id, None, 15, Job.status.not_in(LIVE))
        shown = _listed(session, [*live, *ended])
    workers = list_workers(services, project_id) if caller.may("ops") else None
    live_jobs, ended_jobs = shown[: len(live)], shown[len(live) :]
    return page(request, "overview.html", live=live_jobs, more=more, ended=ended_jobs, workers=workers)


@router.get("/jobs")
def job_list(
    request: Request, services: Here, project_id: ProjectId, filters: JobFilters, after: After = None
) -> Response:
    with services.database.reading() as session:
        rows, has_more = listing.page(session, Job, project_id, after, 50, *filters)
        shown = _listed(session, rows)
    asked = {name: value for name, value in request.query_params.items() if name != "after"}
    older = urlencode({**asked, "after": rows[-1].id}) if has_more else None
    return page(request, "jobs.html", jobs=shown, asked=asked, older=older, statuses=[each.value for each in JobStatus])


@router.get("/jobs/new")
def new_job(
    request: Request,
    services: Here,
    project_id: ProjectId,
    caller: Calling,
    model: Annotated[Reference | None, Query()] = None,
) -> Response:
    if not caller.may("write"):
        raise Problem("insufficient_scope", "this page needs a key with the scope write")
    models = list_models(services, project_id, limit=100, status=IntakeStatus.READY).data
    datasets = list_datasets(services, project_id, limit=100, status=IntakeStatus.READY).data
    strategies = list(STRATEGIES.values())
    return page(request, "new_job.html", models=models, datasets=datasets, strategies=strategies, chosen=model)


@router.get("/jobs/{job_id}")
def job_page(request: Request, services: Here, project_id: ProjectId, job_id: RowId) -> Response:
    with services.database.reading() as session:
        row = found(session, Job, project_id, job_id)
        [job] = _listed(session, [row])
        rounds = round_documents(session, row)
        events = [
            EventDocument(job=job_id, sequence=each.sequence, type=each.type, at=each.at, data=each.data)
            for each in jobs.events(session, job_id, 0, MAX_EVENTS)
        ]
    artifacts = list_artifacts(services, project_id, job_id).data
    return page(
        request,
        "job.html",
        **job,
        rounds=rounds,
        events=events,
        artifacts=artifacts,
        verbs=ALLOWED.get(row.status, ()),
    )


@router.get("/models")
def model_list(request: Request, services: Here, project_id: ProjectId, after: After = None) -> Response:
    listed = list_models(services, project_id, limit=50, after=after)
    return page(request, "models.html", models=listed.data, after=listed.next_cursor)


@router.get("/models/{model_id}")
def model_page(request: Request, services: Here, project_id: ProjectId, model_id: RowId) -> Response:
    model = get_model(services, project_id, model_id)
    with services.database.reading() as session:
        rows, _ = listing.page(session, Job, project_id, None, 20, Job.model_id == model_id)
        shown = _listed(session, rows)
    return page(request, "model.html", model=model, jobs=shown)


@router.get("/datasets")
def dataset_list(request: Request, services: Here, project_id: ProjectId, after: After = None) -> Response:
    listed = list_datasets(services, project_id, limit=50, after=after)
    return page(request, "datasets.html", datasets=listed.data, after=listed.next_cursor)


@router.get("/datasets/{dataset_id}")
def dataset_page(request: Request, services: Here, project_id: ProjectId, dataset_id: RowId) -> Response:
    dataset = get_dataset(services, project_id, dataset_id)
    with services.database.reading() as session:
        rows, _ = listing.page(session, Job, project_id, None, 20, Job.dataset_id == dataset_id)
        shown = _listed(session, rows)
    return page(request, "dataset.html", dataset=dataset, jobs=shown)


@router.get("/compare")
def compare_page(
    request: Request,
    services: Here,
    project_id: ProjectId,
    job: Annotated[list[Reference] | None, Query()] = None,
) -> Response:
    chosen = list(dict.fromkeys(job or []))[:MAX_COMPARED]
    with services.database.reading() as session:
        rows = [found(session, Job, project_id, each) for each in chosen]
        compared = _listed(session, rows)
        recent, _ = listing.page(session, Job, project_id, None, 50)
        offered = _listed(session, recent)
    return page(request, "compare.html", compared=compared, offered=offered, chosen=chosen)


def _listed(session: Session, rows: Sequence[Job]) -> list[dict[str, Any]]:
    """Each job with what a line about it tells: names, and its dense and its selected round. Four queries for any
    number of jobs."""
    names = names_of(session, Model, {row.model_id for row in rows}) | names_of(
        session, Dataset, {row.dataset_id for row in rows}
    )
    wanted = select(Round).join(Job, Job.id == Round.job_id).where(Job.id.in_([row.id for row in rows]))
    told = session.scalars(wanted.where(or_(Round.position == 0, Round.position == Job.selected_position)))
    rounds: dict[tuple[str, int | None], Round] = {(each.job_id, each.position): each for each in told}
    return [
        {
            "job": job,
            "model_name": names[job.model],
            "dataset_name": names[job.dataset],
            "dense": rounds.get((row.id, 0)),
            "selected": rounds.get((row.id, row.selected_position)),
            "drawn": f"{row.last_position}-{row.selected_position}",
        }
        for row, job in zip(rows, job_documents(session, rows), strict=True)
    ]


def names_of(session: Session, entity: type[Model] | type[Dataset], ids: set[str]) -> dict[str, str]:
    return dict(session.execute(select(entity.id, entity.name).where(entity.id.in_(ids))).all())
