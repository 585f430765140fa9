"""The HTTP service: `create_app` puts the parts together. `uvicorn api.app:served --factory` runs it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from sqlalchemy.exc import ProgrammingError
from starlette.exceptions import HTTPException

from api import auth, openapi
from api.around import Around
from api.edge import Edge
from api.metrics import HttpMetrics
from api.observed import Observed
from api.polled import Polled
from api.problems import (
    EVERYWHERE,
    documented,
    on_http_exception,
    on_programming_error,
    on_quota_exceeded,
    on_store_unavailable,
)
from api.routes import (
    artifacts,
    audit,
    catalogue,
    comparison_pictures,
    comparison_results,
    comparisons,
    datasets,
    health,
    job_progress,
    jobs,
    keys,
    links,
    metrics,
    models,
    pareto,
    plots,
    projects,
    provenance,
    reports,
    rounds,
    sensitivity,
    tokens,
    trust_rules,
    uploads,
    webhooks,
    workers,
)
from api.services import opened
from api.validation import on_invalid_request
from api.web import assets, comparison_pages, login, pages
from store import logs, traces
from store.blobs import BlobsAway, Vanishing
from store.database import AWAY
from store.quotas import QuotaExceeded
from store.settings import Settings
from store.version import VERSION


def served() -> FastAPI:
    """What uvicorn runs: the app in a process of its own, whose logs and traces are set up before it starts."""
    settings = Settings()
    logs.configure(settings, "api")
    traces.start("api")
    return create_app(settings)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The schema and the first key are there already: `python -m migrations` makes them."""
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with opened(settings) as app.state.services:
            async with app.state.services.waiting.running(), app.state.services.polls.query.running():
                yield

    app = FastAPIOffline(
        title="Espalier",
        version=VERSION,
        description=openapi.description(),
        lifespan=lifespan,
        redoc_url=None,
        static_url="/docs/assets",  # the pages work without a network
        swagger_ui_parameters={"persistAuthorization": True, "tryItOutEnabled": True, "validatorUrl": None},
        redirect_slashes=False,
    )
    for open_to_all in (health.router, links.public, provenance.public):
        app.include_router(open_to_all)
    app.include_router(metrics.router)
    app.include_router(tokens.router, prefix="/v1")
    app.include_router(_v1(), prefix="/v1")
    for part in (assets, login, pages, comparison_pages):
        app.include_router(part.router)
    app.openapi = partial(openapi.openapi_of, app)  # type: ignore[method-assign]

    app.state.metrics = HttpMetrics()
    app.add_middleware(Observed, metrics=app.state.metrics)
    app.add_middleware(Around)
    app.add_middleware(Edge)
    app.add_middleware(Polled, metrics=app.state.metrics)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
    for unavailable in (*AWAY, Vanishing, BlobsAway):
        app.add_exception_handler(unavailable, on_store_unavailable)
    app.add_exception_handler(QuotaExceeded, on_quota_exceeded)
    app.add_exception_handler(ProgrammingError, on_programming_error)
    return app


def _v1() -> APIRouter:
    """All that needs a key."""
    v1 = APIRouter(responses=documented(*EVERYWHERE), dependencies=[auth.DOCUMENTED])
    for resource in (
        uploads,
        models,
        datasets,
        jobs,
        job_progress,
        rounds,
        pareto,
        plots,
        sensitivity,
        reports,
        artifacts,
    ):
        v1.include_router(resource.router)
    for resource in (comparisons, comparison_results, comparison_pictures):
        v1.include_router(resource.router)
    for resource in (links, provenance, catalogue, workers, projects, keys, trust_rules, audit, webhooks):
        v1.include_router(resource.router)
    return v1
