"""Is the process up, and can it work? Asked without a key."""

from __future__ import annotations

from fastapi import APIRouter
from sqlalchemy import select

from api.problems import documented
from api.services import Here
from store.tables import Project

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def get_health() -> dict[str, str]:
    """The process answers; nothing else is asked."""
    return {"status": "ok"}


@router.get("/readyz", responses=documented("unavailable"))
def get_readiness(services: Here) -> dict[str, str]:
    """`ready`, or `degraded`: without the broker queued jobs wait, without the blobs nothing is uploaded or downloaded,
    while these are `full` nothing is uploaded; all the rest works."""
    with services.database.reading() as session:
        session.execute(select(Project.id).limit(1))  # fails where the schema is missing, too: 503
    broker = "ok" if services.bell.ping() else "away"
    blobs = "ok" if services.blobs.ping() else "away"
    if blobs == "ok" and services.blobs.free_bytes() < services.settings.min_free_bytes:
        blobs = "full"
    return {
        "status": "ready" if broker == blobs == "ok" else "degraded",
        "database": "ok",
        "broker": broker,
        "blobs": blobs,
    }
