"""Logs: one JSON object a line (on a terminal, lines for people), with the ids of what is worked on.

Code logs by the standard library. What is bound (`with bound(job_id=..., attempt=...)`) is on every line of that
thread or request, whoever writes it: uvicorn's, Celery's and SQLAlchemy's loggers end in the same handler.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, TextIO

import structlog
from opentelemetry import trace
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError
from structlog.contextvars import bound_contextvars as bound
from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.processors import ExceptionRenderer, JSONRenderer, TimeStamper
from structlog.stdlib import ExtraAdder, ProcessorFormatter, add_log_level, add_logger_name

from store.settings import Settings

__all__ = ["bound", "configure"]

Fields = MutableMapping[str, Any]

_IN_URL = re.compile(r"(://[^\s:/@]*:)[^\s/@]+(?=@)")
_KEY = re.compile(r"\besp_[\w-]+")
_SHORT = 6
"""A secret of fewer characters is no secret, and to black it out would spoil every line."""
_OF_LIBRARIES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "OTEL_EXPORTER_OTLP_HEADERS")
_OWN_HANDLERS = ("uvicorn", "uvicorn.error")
_TELLS_TWICE = "uvicorn.access"
"""A line for every request, which has ours: as long as it reaches a handler, uvicorn writes it, whatever its
`--no-access-log` says."""


def configure(settings: Settings, part: str, stream: TextIO | None = None) -> None:
    """For a process's own start: from here all loggers write to `stream` (stderr), as the settings say."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter(settings, part, is_terminal=stream.isatty()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name in _OWN_HANDLERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger(_TELLS_TWICE).handlers.clear()
    logging.getLogger(_TELLS_TWICE).propagate = False
    for talker in ("celery", "kombu", "urllib3"):  # a line for every message and every request of theirs
        logging.getLogger(talker).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    # No line says where in the code it was written, or by which thread: finding out costs as much as the line.
    logging._srcfile = None  # documented: "Optimization" in the how-to of logging
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def formatter(settings: Settings, part: str, is_terminal: bool = False) -> logging.Formatter:
    as_text = is_terminal if settings.log_format is None else settings.log_format == "text"
    gathered: list[Any] = [
        structlog.contextvars.merge_contextvars,
        add_log_level,
        add_logger_name,
        ExtraAdder(),
        _add_trace,
    ]
    if as_text:
        finish: list[Any] = [
            TimeStamper("%H:%M:%S", utc=False),
            ExceptionRenderer(),
            _printable,
            ConsoleRenderer(colors=is_terminal, exception_formatter=plain_traceback),
        ]
    else:
        finish = [_adder(part), TimeStamper("iso"), ExceptionRenderer(), JSONRenderer(_to_json)]
    return _Discreet(
        _secrets(settings),
        foreign_pre_chain=gathered,
        processors=[ProcessorFormatter.remove_processors_meta, *finish],
    )


_encode = json.JSONEncoder(sort_keys=True, default=str).encode  # `json.dumps` makes one for every line


def _to_json(fields: Fields, **_options: Any) -> str:
    return _encode(fields)


class _Discreet(ProcessorFormatter):
    """No secret leaves this process by its log, whatever library or traceback says it."""

    def __init__(self, secrets: list[str], **given: Any) -> None:
        super().__init__(**given)
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return _KEY.sub("esp_***", _IN_URL.sub(r"\1***", line))


def _secrets(settings: Settings) -> list[str]:
    given = [secret.get_secret_value() for secret in (settings.api_key, settings.secret_key) if secret is not None]
    given += [os.environ.get(name, "") for name in _OF_LIBRARIES]
    for url in filter(None, (settings.database_url, settings.broker_url)):
        with contextlib.suppress(ArgumentError):  # of several servers: `_IN_URL` sees to it
            given.append(str(make_url(url).password or ""))
    long = {secret for secret in given if len(secret) >= _SHORT}
    return sorted(long | {json.dumps(secret)[1:-1] for secret in long}, key=len, reverse=True)


def _add_trace(_logger: Any, _method: str, fields: Fields) -> Fields:
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        fields["trace_id"] = trace.format_trace_id(span.trace_id)
    return fields


def _adder(part: str) -> Callable[[Any, str, Fields], Mapping[str, Any]]:
    def add(_logger: Any, _method: str, fields: Fields) -> Fields:
        fields["part"] = part
        return fields

    return add


def _printable(_logger: Any, _method: str, fields: Fields) -> Fields:
    """A terminal is steered, and a line made up, by nothing that a client sent; JSON escapes it anyhow."""
    for name, value in fields.items():
        if isinstance(value, str):
            kept = "\n" if name == "exception" else ""
            fields[name] = "".join(c if c.isprintable() or c in kept else "\ufffd" for c in value)
    return fields
