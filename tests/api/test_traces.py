"""One trace from the request through the attempt to its rounds."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.testclient import TestClient

from store import traces
from store.blobs import BlobStore
from store.database import Database
from store.settings import Settings
from store.tables import Job
from worker.attempts import JobAttempt
from worker.folder import Folder
from worker.lease import Lease
from worker.messages import Finished, Metrics, RoundDone
from worker.spans import attempt_span

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADER = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """The SDK's own, kept in memory. OpenTelemetry's global provider can be set once in a process, so it is not."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(traces, "tracer", provider.get_tracer("tests"))
    yield exporter
    provider.shutdown()


def traceparent_of(database: Database, job_id: str) -> str | None:
    with database.reading() as session:
        return session.get_one(Job, job_id).traceparent


def test_from_the_request_to_the_rounds(
    client: TestClient,
    body: dict[str, Any],
    bench: Any,
    database: Database,
    blobs: BlobStore,
    settings: Settings,
    tmp_path: Path,
    spans: InMemorySpanExporter,
) -> None:
    client.post("/v1/jobs", json=body, headers=HEADER)
    job = bench.claim()
    with attempt_span(job, "worker-1"), Folder(tmp_path / "attempt", 1 << 20) as folder:
        lease = Lease(database, settings, Job, job.id, job.attempt, threading.Event())
        attempt = JobAttempt(job, lease, folder, blobs, settings)
        for number in range(2):
            report = Metrics(metrics={"validation": {"accuracy": 0.9, "loss": 0.3}}, seconds={"train": 1.5})
            attempt.take(RoundDone(position=number, number=number, sparsity=0.2 * number, report=report, files={}))
        assert attempt.take(Finished())
    found = {span.name: span for span in spans.get_finished_spans()}
    assert {format(span.context.trace_id, "032x") for span in found.values()} == {TRACE}
    request, tried = found["POST /v1/jobs"], found["attempt"]
    assert parent_of(request) == PARENT
    assert request.attributes is not None
    assert request.attributes["http.response.status_code"] == 201
    assert parent_of(tried) == span_id(request)
    assert tried.attributes == {
        "espalier.job.id": job.id,
        "espalier.attempt": 1,
        "espalier.pool": job.pool,
        "espalier.worker": "worker-1",
        "espalier.end": "completed",
    }
    first, second = found["round 0"], found["round 1"]
    assert parent_of(first) == parent_of(second) == span_id(tried)
    assert first.attributes == {"espalier.round": 0, "espalier.sparsity": 0.0, "espalier.seconds.train": 1.5}
    assert first.end_time == second.start_time
    assert tried.start_time is not None
    assert first.start_time is not None
    assert tried.start_time <= first.start_time


def span_id(span: ReadableSpan) -> str:
    return format(span.context.span_id, "016x")


def parent_of(span: ReadableSpan) -> str:
    assert span.parent is not None
    return format(span.parent.span_id, "016x")


def test_without_the_sdk_the_callers_trace_is_kept_and_nonsense_is_not(
    client: TestClient, body: dict[str, Any], database: Database
) -> None:
    for header, kept in (
        (HEADER, HEADER["traceparent"]),
        ({"traceparent": "00-nonsense'; drop table jobs"}, None),
        ({"traceparent": HEADER["traceparent"] * 50}, None),
        ({}, None),
    ):
        job = client.post("/v1/jobs", json=body, headers=header).json()
        assert traceparent_of(database, job["id"]) == kept


def test_machines_that_ask_every_few_seconds_are_not_traced(client: TestClient, spans: InMemorySpanExporter) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        client.get(path)
    assert spans.get_finished_spans() == ()


class Receiver(BaseHTTPRequestHandler):
    """Of OTLP over HTTP."""

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.path, content))  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@pytest.fixture(scope="module")
def receiver() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        server.received = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


ONE_SPAN = "traces.tracer.start_span('hello').end()"


def test_spans_are_sent_where_the_standard_variable_says(receiver: HTTPServer, python: str) -> None:
    program = f"from store import traces; assert traces.start('worker'); {ONE_SPAN}"
    address = f"http://127.0.0.1:{receiver.server_port}"
    subprocess.run([python, "-c", program], env={"OTEL_EXPORTER_OTLP_ENDPOINT": address}, check=True)
    [(path, content)] = receiver.received  # type: ignore[attr-defined]
    assert path == "/v1/traces"
    [sent] = ExportTraceServiceRequest.FromString(content).resource_spans
    assert {a.key: a.value.string_value for a in sent.resource.attributes}["service.name"] == "espalier-worker"
    assert [span.name for span in sent.scope_spans[0].spans] == ["hello"]


def test_without_the_extra_nothing_is_sent_and_the_log_says_why(python: str) -> None:
    program = (
        "import sys; sys.modules['opentelemetry.sdk'] = None\n"
        f"from store import traces; assert not traces.start('api'); {ONE_SPAN}"
    )
    ran = subprocess.run(
        [python, "-c", program],
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "install espalier-server[otel]" in ran.stderr
