"""A job as it goes on: the service says when it has changed, where it can; else it is asked again and again."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from typing import Any

from espalier.errors import ApiError, Unreachable, WaitTimedOut
from espalier.shapes import Event, Job
from espalier.transport import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Transport, is_passing

log = logging.getLogger("espalier")

WAIT_SECONDS = 25
"""Of one request: less than what proxies cut."""
SPARE_SECONDS = 10.0
"""For an answer, beyond what the service was asked to wait; and for the last look of who gives up."""


def states(
    transport: Transport, path: str, interval_seconds: float, timeout_seconds: float | None = None
) -> Iterator[Job]:
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
            response = transport.read(path, headers, wait_seconds + SPARE_SECONDS, left_seconds)
        except (Unreachable, ApiError) as error:
            if transport.patience_seconds < left_seconds or not is_passing(error):
                raise
            if left_seconds == 0:
                raise WaitTimedOut(f"not done within {timeout_seconds} s: {error}") from error
            time.sleep(max(0.0, give_up_at - time.monotonic()))
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
            time.sleep(min(interval_seconds, max(0.0, give_up_at - time.monotonic())))


def _lasting(job: Job) -> dict[str, Any]:
    return {**job, "progress": {**job["progress"], "eta_seconds": None}}


def events(transport: Transport, path: str, after: int) -> Iterator[Event]:
    """From behind the sequence number `after`, as they come, until the job's last. A stream that is cut is taken up
    again behind the last event, for `patience_seconds` each time."""
    give_up_at = time.monotonic() + transport.patience_seconds
    pause_seconds = FIRST_PAUSE_SECONDS
    while True:
        is_connected = False
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        try:
            with transport.stream("GET", path, headers=headers) as response:
                if response.status_code == 204:
                    return
                is_connected = True
                for event in _parsed(response.iter_lines()):
                    after = event["sequence"]
                    yield event
                    pause_seconds = FIRST_PAUSE_SECONDS
            # It ended in order: behind the job's last event, or because it was long. The next answer says which.
        except (Unreachable, ApiError) as error:
            if not is_passing(error):
                raise
            if is_connected:
                give_up_at = time.monotonic() + transport.patience_seconds
            if time.monotonic() + pause_seconds > give_up_at:
                raise
            log.warning("%s; going on behind event %d in %.1f s", error, after, pause_seconds)
        time.sleep(pause_seconds)
        pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)


def _parsed(lines: Iterator[str]) -> Iterator[Event]:
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))
        elif not line and data:
            event: Event = json.loads("\n".join(data))
            data = []
            yield event
