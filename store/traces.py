"""Traces: one from the request that made a job, through its attempts, to their rounds.

Here speaks OpenTelemetry's API alone, which does nothing by itself. Where the SDK is installed
(`espalier-server[otel]`) and its standard variables name a receiver, `start` sets it up and spans are sent.
"""

from __future__ import annotations

import logging
import os

from opentelemetry import context, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from store.version import VERSION

log = logging.getLogger(__name__)

tracer = trace.get_tracer("espalier", VERSION)
_W3C = TraceContextTextMapPropagator()
_RECEIVERS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def start(part: str) -> bool:
    """Send this process's spans, as the service `espalier-PART`, if the environment says where. Whether it does."""
    if not any(os.environ.get(name) for name in _RECEIVERS):
        return False
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as missing:
        log.warning("no traces are sent: %s; install espalier-server[otel]", missing)
        return False
    name = os.environ.get("OTEL_SERVICE_NAME") or f"espalier-{part}"
    provider = TracerProvider(resource=Resource.create({"service.name": name, "service.version": VERSION}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))  # in a thread; what cannot be sent is dropped
    trace.set_tracer_provider(provider)
    return True


def incoming(traceparent: str | None) -> context.Context:
    """What a header or a row says of the trace that goes on here; anything but a sane traceparent says nothing."""
    return _W3C.extract({"traceparent": traceparent} if traceparent else {}, context.Context())


def current() -> str | None:
    """The traceparent of the span that this code runs in: without the SDK, the one that came in."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return carrier.get("traceparent")


def note_end(code: str) -> None:
    """On the attempt's span, where this runs in one: a sweeper ends attempts, too."""
    trace.get_current_span().set_attribute("espalier.end", code)
