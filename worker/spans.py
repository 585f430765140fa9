"""An attempt at a job as a span of the trace that its request began, and its rounds below it.

A training process traces nothing: it has no network, and is not trusted. What it reports becomes spans here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.trace import SpanKind

from store import traces
from store.counters import PHASES
from store.tables import Dataset, Job, Model
from worker.messages import RoundDone


@contextmanager
def attempt_span(row: Job | Model | Dataset, worker: str) -> Iterator[None]:
    """Around one attempt; an exception that passes through marks it as failed. Uploads have no trace."""
    if not isinstance(row, Job):
        yield
        return
    attributes: dict[str, str | int] = {
        "espalier.job.id": row.id,
        "espalier.attempt": row.attempt,
        "espalier.pool": row.pool,
        "espalier.worker": worker,
    }
    came_from = traces.incoming(row.traceparent)
    with traces.tracer.start_as_current_span(
        "attempt", context=came_from, kind=SpanKind.CONSUMER, attributes=attributes
    ):
        yield


class RoundSpans:
    """Made when an attempt begins. A round lasts from the one before it until it is stored: loading, sending and
    storing included; what its phases took is in its attributes."""

    def __init__(self) -> None:
        self._begun_at = time.time_ns()

    def stored(self, done: RoundDone) -> None:
        """In the thread of the attempt, whose span is the current one."""
        now = time.time_ns()
        name = "final" if done.number is None else f"round {done.number}"
        attributes: dict[str, str | int | float] = {
            "espalier.round": "final" if done.number is None else done.number,
            "espalier.sparsity": done.sparsity,
        }
        for phase in PHASES:
            if phase in done.report.seconds:
                attributes[f"espalier.seconds.{phase}"] = done.report.seconds[phase]
        traces.tracer.start_span(name, start_time=self._begun_at, attributes=attributes).end(now)
        self._begun_at = now
