"""A log line is one JSON object with the ids of its work, and no secret is in it."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from store import logs
from store.logs import bound
from store.settings import Settings

SETTINGS = Settings(
    data_dir=Path("/nowhere"),
    database_url="postgresql://user:hunter2!%2Fx@host/espalier",
    broker_url="redis://:letmein99@host:6379/0",
    secret_key=SecretStr("the-secret-of-links-and-webhooks"),
)


class Log:
    def __init__(self, settings: Settings) -> None:
        self._stream = io.StringIO()
        handler = logging.StreamHandler(self._stream)
        handler.setFormatter(logs.formatter(settings, "worker"))
        self.logger = logging.Logger("worker.supervisor")
        self.logger.addHandler(handler)

    @property
    def text(self) -> str:
        return self._stream.getvalue()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def log() -> Log:
    return Log(SETTINGS)


def test_a_line_says_where_when_and_about_what(log: Log) -> None:
    with bound(job_id="job_1", attempt=2, worker="host:7"):
        log.logger.warning("claimed %s", "it", extra={"pool": "cpu"})
    log.logger.info("by itself")
    first, second = log.lines()
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "event": "claimed it",
        "level": "warning",
        "logger": "worker.supervisor",
        "part": "worker",
        "job_id": "job_1",
        "attempt": 2,
        "worker": "host:7",
        "pool": "cpu",
    }
    assert "job_id" not in second


def test_an_exception_is_part_of_its_line(log: Log) -> None:
    try:
        raise ValueError("line one\nline two")
    except ValueError:
        log.logger.exception("it failed")
    [line] = log.lines()
    assert "Traceback" in line["exception"]
    assert "line two" in line["exception"]


def test_no_secret_is_written(log: Log) -> None:
    log.logger.warning("cannot reach %s", SETTINGS.database_url)
    log.logger.warning("the password %r of %s", "letmein99", "redis://:letmein99@host:6379/0")
    log.logger.warning("Authorization: Bearer esp_abcDEF-123_456", extra={"key": "esp_abcDEF-123_456"})
    try:
        raise ConnectionError("refused: postgresql://somebody:else-s@host, the-secret-of-links-and-webhooks")
    except ConnectionError:
        log.logger.exception("it failed")
    assert len(log.lines()) == 4, "still JSON"
    for secret in ("hunter2", "letmein99", "abcDEF", "else-s", "the-secret-of-links-and-webhooks"):
        assert secret not in log.text
    assert "esp_***" in log.text


def test_on_a_terminal_it_is_for_people_and_nobody_steers_it() -> None:
    log = Log(SETTINGS.model_copy(update={"log_format": "text"}))
    log.logger.warning("no such thing: %s", "\x1b[2Jgone\nlevel=error made up", extra={"path": "/\x1b[31m"})
    [line] = log.text.splitlines()
    assert "\x1b" not in line
    assert "no such thing" in line
