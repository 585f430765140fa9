"""A job as it goes on: the service says when it has changed, where it can; else it is asked again and again."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx2

from espalier.errors import ApiError, Unreachable, WaitTimedOut
from espalier.patience import Patience, is_passing
from espalier.shapes import Event, Job
from espalier.transport import Transport

WAIT_SECONDS = 25
"""Of one request: less than what proxies cut."""
SPARE_SECONDS = 10.0
"""For an answer, beyond what the service was asked to wait; and for the last look of who gives up."""


async def states(
    transport: Transport, path: str, interval_seconds: float, timeout_seconds: float | None = None
) -> AsyncGenerator[Job, None]:
    """The job now, and each time it has changed; `eta_seconds` alone is no change. Endless.

    Raises WaitTimedOut once the time is over and it was looked at a last time.
    """
    give_up_at = time.monotonic() + timeout_seconds if timeout_seconds is not None else float("inf")
    etag: str | None = None
    seen: Any = None
    while True:
        left_seconds = max(0.0, give_up_at - time.monotonic())
        wait_seconds = int(min(WAIT_SECONDS, left_seconds))
        headers = {} if etag is None else {"If-None-Match": etag, "Prefer": f"wait={wait_seconds}"}
        try:
            response = await _look(transport, path, headers, wait_seconds + SPARE_SECONDS, left_seconds)
        except (Unreachable, ApiError) as error:
            if transport.patience_seconds < left_seconds or not is_passing(error):
                raise
            if left_seconds == 0:
                raise WaitTimedOut(f"not done within {timeout_seconds} s: {error}") from error
            await transport.wire.sleep(max(0.0, give_up_at - time.monotonic()))
            continue  # a last look
        if response.status_code != 304:
            job: Job = response.json()
            if _lasting(job) != seen:
                seen = _lasting(job)
                yield job
        if left_seconds == 0:
            raise WaitTimedOut(f"not done within {timeout_seconds} s")
        is_first, etag = etag is None, response.headers.get("ETag")
        has_waited = "Preference-Applied" in response.headers and wait_seconds > 0
        if etag is None or not (is_first or has_waited):
            await transport.wire.sleep(min(interval_seconds, max(0.0, give_up_at - time.monotonic())))


async def _look(
    transport: Transport, path: str, headers: dict[str, str], answer_seconds: float, patience_seconds: float
) -> httpx2.Response:
    """The answer, perhaps a 304: tried for up to `patience_seconds`, each time for `answer_seconds`."""

    async def attempt() -> httpx2.Response:
        timeout = httpx2.Timeout(answer_seconds, connect=10)
        async with transport.stream("GET", path, headers=headers, timeout=timeout) as response:
            await transport.wire.read(response)
            return response

    return await transport.patiently(attempt, patience_seconds)


def _lasting(job: Job) -> dict[str, Any]:
    return {**job, "progress": {**job["progress"], "eta_seconds": None}}


async def events(transport: Transport, path: str, after: int) -> AsyncGenerator[Event, None]:
    """From behind the sequence number `after`, as they come, until the job's last. A stream that is cut is taken up
    again behind the last event, for the client's patience each time."""
    patience = Patience(transport.wire, transport.patience_seconds)
    while True:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        try:
            async with transport.stream("GET", path, headers=headers) as response:
                if response.status_code == 204:
                    return
                patience.renew()
                async for event in _parsed(transport.wire.lines(response)):
                    after = event["sequence"]
                    yield event
                    patience.renew()
        except (Unreachable, ApiError) as error:
            await patience.bear(error)
        else:  # it ended in order: behind the job's last event, or because it was long. The next answer says which
            await patience.pause()


async def _parsed(lines: AsyncIterator[str]) -> AsyncIterator[Event]:
    data: list[str] = []
    async for line in lines:
        if line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))
        elif not line and data:
            event: Event = json.loads("\n".join(data))
            data = []
            yield event
