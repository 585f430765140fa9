"""Who works, on what, and what waits for whom."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy import select

from api.auth import OpsRoute, ProjectId
from api.pages import Page
from api.services import Here
from store import workers
from store.tables import Job, JobStatus
from store.workers import Seen

router = APIRouter(tags=["operations"], route_class=OpsRoute)


class HeldJob(BaseModel):
    job: str
    attempt: int
    since: datetime


class WorkerDocument(BaseModel):
    id: str
    object: Literal["worker"] = "worker"
    pool: str
    device: str = Field(description="cpu or cuda: what its jobs compute on")
    slots: int = Field(description="jobs at a time")
    hostname: str
    version: str
    extras: list[str] | None = Field(
        description="packages beside the necessary: onnx; null: of a version that did not say"
    )
    started_at: datetime
    seen_at: datetime = Field(description="its last heartbeat")
    alive: bool
    state: Literal["idle", "busy", "draining", "stopped", "silent"] = Field(
        description="draining: it takes no more jobs; stopped: it said so; silent: it missed its heartbeats"
    )
    busy_slots: int = Field(description="slots taken, by jobs of any project")
    jobs: list[HeldJob] = Field(description="what it works on, of this project alone")


class QueueDocument(BaseModel):
    pool: str = Field(description="of jobs; intake: uploads that wait to be validated, by any worker")
    depth: int = Field(description="rows that wait, of all projects")
    oldest_seconds: float | None = Field(description="since when the oldest of them waits; null: none does")
    workers: int = Field(description="living workers that serve it")


class Workers(Page[WorkerDocument]):
    queues: list[QueueDocument] = Field(
        description="of the pools that a living worker serves, and those in which jobs of this project wait"
    )


@router.get("/workers")
def list_workers(services: Here, project_id: ProjectId) -> Workers:
    """Living workers, then those that went within the hour. A queue is stuck where rows wait and `workers` is 0."""
    heartbeat_seconds = services.settings.heartbeat_seconds
    with services.database.reading() as session:
        seen = workers.seen(session, heartbeat_seconds)
        # A name that another project made up is none of this one's business.
        own = select(Job.pool).where(Job.project_id == project_id, Job.status == JobStatus.QUEUED).distinct()
        pools = list(session.scalars(own.limit(workers.MAX_QUEUES)))
        queues = workers.queues(session, heartbeat_seconds, pools)
    return Workers(
        data=[_document(each, project_id) for each in seen], queues=[QueueDocument(**vars(queue)) for queue in queues]
    )


def _document(seen: Seen, project_id: str) -> WorkerDocument:
    row = seen.worker
    return WorkerDocument(
        id=row.id,
        pool=row.pool,
        device=row.device,
        slots=row.slots,
        hostname=row.hostname,
        version=row.version,
        extras=row.extras,
        started_at=row.started_at,
        seen_at=row.seen_at,
        alive=seen.alive,
        state=_state(seen),
        busy_slots=len(seen.holdings),
        jobs=[
            HeldJob(job=held.job_id, attempt=held.attempt, since=held.since)
            for held in seen.holdings
            if held.project_id == project_id
        ],
    )


def _state(seen: Seen) -> Literal["idle", "busy", "draining", "stopped", "silent"]:
    if not seen.alive:
        return "stopped" if seen.worker.state == "stopped" else "silent"
    if seen.worker.state == "draining":
        return "draining"
    return "busy" if seen.holdings else "idle"
