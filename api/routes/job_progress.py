"""How a job goes on: polled cheaply, waited for, and its events as a list or as a stream."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from api.auth import KeyedRoute, ProjectId
from api.conditional import is_current
from api.documents import EventDocument, JobDocument
from api.job_documents import job_documents
from api.long_polls import answered, is_set
from api.pages import Limit, Page, RowId, found
from api.polled import Shown, Stamp
from api.problems import EVERYWHERE, Problem, documented
from api.services import Here, Services
from store import jobs
from store.database import AWAY
from store.tables import Job, JobStatus

router = APIRouter(tags=["jobs"], route_class=KeyedRoute)

HEARTBEAT_SECONDS = 15.0
STREAM_SECONDS = 900.0
"""Then a stream ends, and its client goes on in a new one: a key that was taken away opens none."""
_NOT_STORED = {"Cache-Control": "no-store"}


EventPage = tuple[Sequence[EventDocument], bool]


@router.get(
    "/jobs/{job_id}",
    response_model=JobDocument,
    responses=documented(*EVERYWHERE, "not_found")
    | {304: {"description": "nothing has changed since `If-None-Match`"}},
)
async def get_job(
    request: Request,
    services: Here,
    project_id: ProjectId,
    job_id: RowId,
    prefer: Annotated[
        str | None,
        Header(
            description="`wait=30`, with `If-None-Match`: answered when the job changes, or after 30 s (60 at most)"
        ),
    ] = None,
) -> Response:
    """Polling is cheap: send the last `ETag` as `If-None-Match`, and `Prefer: wait=30` to be answered when it changes.
    The ETag stands for the job itself; `eta_seconds` and `queue_position` are those of the moment. `Retry-After` says
    when to come back where the job has not ended."""

    async def read() -> Shown:
        return await run_in_threadpool(_show, services, project_id, job_id)

    return await answered(request, services.waiting, project_id, job_id, prefer, read, _answer)


def _show(services: Services, project_id: str, job_id: str) -> Shown:
    read_at = time.monotonic()
    with services.database.reading() as session:
        job = found(session, Job, project_id, job_id)
        [document] = job_documents(session, [job])
    retry_after = None
    if not document.done:
        retry_after = 5 if job.status == JobStatus.PAUSED else 2
    shown = Shown(
        Stamp(job.version, document.queue_position, document.retried_from),
        document.model_dump_json().encode(),
        document.done,
        document.progress.eta_seconds is not None,
        retry_after,
    )
    services.polls.memory.keep(job_id, shown, read_at)
    return shown


def _answer(request: Request, shown: Shown) -> Response:
    headers = {"ETag": shown.etag}
    if shown.retry_after is not None:
        headers["Retry-After"] = str(shown.retry_after)
    if is_current(request, shown.etag):
        return Response(status_code=304, headers=headers)
    return Response(shown.body, headers=headers, media_type="application/json")


@router.get(
    "/jobs/{job_id}/events",
    response_model=Page[EventDocument],
    responses=documented(*EVERYWHERE, "not_found")
    | {
        200: {
            "description": "with `Accept: text/event-stream` a stream, which ends behind the last event of the job",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        204: {"description": "a stream of a job that has ended, with no event behind `Last-Event-ID`"},
    },
)
async def list_events(
    request: Request,
    services: Here,
    project_id: ProjectId,
    job_id: RowId,
    limit: Limit = 100,
    after: Annotated[int, Query(ge=0, lt=2**62, description="a sequence number: what came later")] = 0,
    last_event_id: Annotated[str | None, Header(description="of a stream: the last event that came")] = None,
) -> Page[EventDocument] | Response:
    """What happened to the job, oldest first."""
    if "text/event-stream" not in request.headers.get("accept", ""):
        rows, _ = await run_in_threadpool(_read_events, services, project_id, job_id, after, limit + 1)
        has_more = len(rows) > limit
        data = rows[:limit]
        return Page(data=data, has_more=has_more, next_cursor=str(data[-1].sequence) if has_more else None)
    if last_event_id is not None:
        if not re.fullmatch(r"\d{1,18}", last_event_id, re.ASCII):
            raise Problem("invalid_request", "send the id of an event, a number", param="header:last-event-id")
        after = int(last_event_id)
    first = await run_in_threadpool(_read_events, services, project_id, job_id, after, limit)
    if first == ([], True):
        return Response(status_code=204)  # a browser would come back for ever otherwise
    stream = _stream(request, services, project_id, job_id, after, limit)
    headers = {**_NOT_STORED, "X-Accel-Buffering": "no"}
    return StreamingResponse(stream, headers=headers, media_type="text/event-stream")


def _read_events(services: Services, project_id: str, job_id: str, after: int, limit: int) -> EventPage:
    """(events from behind `after`, whether the job has ended): of one snapshot, so that the last event is among those
    that are read, or to be read next, once the job has ended."""
    with services.database.reading() as session:
        job = found(session, Job, project_id, job_id)
        rows = jobs.events(session, job.id, after, limit)
    events = [EventDocument(job=job_id, sequence=r.sequence, type=r.type, at=r.at, data=r.data) for r in rows]
    return events, JobStatus(job.status).is_terminal


async def _stream(
    request: Request, services: Services, project_id: str, job_id: str, after: int, limit: int
) -> AsyncIterator[bytes]:
    until = time.monotonic() + STREAM_SECONDS
    is_first = True

    async def read_page() -> EventPage:
        return await run_in_threadpool(_read_events, services, project_id, job_id, after, limit)

    yield b"retry: 1000\n\n"
    with services.waiting.watching(job_id) as watch:
        while time.monotonic() < until:
            changed = watch.changed if watch else None
            try:
                if watch is None or is_first:
                    events, is_done = await read_page()
                else:
                    events, is_done = await watch.once((project_id, after, limit), read_page)
            except (Problem, *AWAY):
                return  # the job was deleted, or the database is away: whoever comes back is told so
            is_first = False
            for event in events:
                yield _framed(event)
                after = event.sequence
            if len(events) == limit:
                continue
            if is_done or changed is None or services.waiting.is_over:
                return
            if not await is_set(changed, request, HEARTBEAT_SECONDS):
                yield b": still here\n\n"


def _framed(event: EventDocument) -> bytes:
    data: dict[str, Any] = event.model_dump(mode="json")
    return f"id: {event.sequence}\nevent: {event.type}\ndata: {json.dumps(data)}\n\n".encode()
