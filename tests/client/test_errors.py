"""What goes wrong is one exception of this package, with the document that says why; and it is said in time."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

import espalier
import pytest
from elsewhere_http import something_else
from espalier import ApiError, Client, EspalierError, Unreachable

KEY = "esp_some-key"


def test_a_refusal_carries_the_whole_problem(client: Client, references: dict[str, str]) -> None:
    recipe = {"strategy": "lottery_ticket_reset", "schedule": {"fraction": 2}, "stop": {"rounds": -1}}
    with pytest.raises(ApiError) as caught:
        client.create_job(**references, recipe=recipe)
    error = caught.value
    assert (error.status, error.code, error.retryable) == (422, "invalid_request", False)
    assert error.problem["param"] == "/recipe/schedule/fraction"
    params = {one["param"]: one["message"] for one in error.problem["errors"]}
    assert params.keys() == {"/recipe/schedule/fraction", "/recipe/stop/rounds"}
    assert error.problem["request_id"].startswith("req_")
    for param, message in params.items():
        assert f"{param}: {message}" in str(error), "who sees only the message sees every fault"


@pytest.mark.parametrize(
    ("ask", "status", "code"),
    [
        (lambda client: client.job("job_none"), 404, "not_found"),
        (lambda client: client.job("../models"), 404, "not_found"),
        (lambda client: client.rounds("job_none"), 404, "not_found"),
        (lambda client: client.cancel("job_none"), 404, "not_found"),
        (lambda client: list(client.jobs(limit=0)), 422, "invalid_request"),
        (lambda client: client.upload_model(b"x" * 99, architecture="lenet5"), 422, "invalid_content"),
        (lambda client: client.upload_model(b"x" * 99, architecture="lenet6"), 422, "invalid_request"),
        (lambda client: client.upload_dataset(b"x" * 99), 422, "invalid_content"),
    ],
)
def test_what_trying_again_would_not_help_is_raised_at_once(
    client: Client, ask: Callable[[Client], object], status: int, code: str
) -> None:
    started = time.monotonic()
    with pytest.raises(ApiError) as caught:
        ask(client)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert time.monotonic() - started < 10, "the patience of this client is 60 s"


def test_a_wrong_key(api: Any) -> None:
    with Client(api.url, "esp_wrong") as client, pytest.raises(ApiError) as caught:
        client.job("job_none")
    assert (caught.value.status, caught.value.code) == (401, "unauthorized")


def test_a_key_from_a_file_may_end_in_a_newline(api: Any, references: dict[str, str]) -> None:
    with Client(f"{api.url}/", api.fleet.settings.api_key.get_secret_value() + "\n") as careless:
        assert careless.model(references["model"])["status"] == "ready"


def test_url_and_key_come_from_the_environment(
    api: Any, references: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPALIER_URL", api.url)
    monkeypatch.setenv("ESPALIER_API_KEY", api.fleet.settings.api_key.get_secret_value())
    with Client() as client:
        assert client.model(references["model"])["status"] == "ready"


@pytest.mark.parametrize(("url", "key"), [(None, KEY), ("http://127.0.0.1:1", None), ("", KEY), (None, None)])
def test_a_missing_url_or_key_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, url: str | None, key: str | None
) -> None:
    monkeypatch.delenv("ESPALIER_URL", raising=False)
    monkeypatch.delenv("ESPALIER_API_KEY", raising=False)
    with pytest.raises(EspalierError, match="set ESPALIER_URL and ESPALIER_API_KEY"):
        Client(url, key)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "localhost", "ftp://localhost", "http://", "http://[::1"])
def test_what_is_no_url_is_said_at_once(url: str) -> None:
    with pytest.raises(EspalierError, match=r"http://127\.0\.0\.1:8000"):
        Client(url, KEY)


def test_nobody_there(caplog: pytest.LogCaptureFixture) -> None:
    with something_else((200, {}, b"")) as url:
        pass  # a port where nobody listens any more
    started = time.monotonic()
    with Client(url, KEY, patience_seconds=0.5) as client, pytest.raises(Unreachable, match="GET /v1/jobs/job_1"):
        client.job("job_1")
    assert 0.2 <= time.monotonic() - started < 10
    assert "trying again" in caplog.text
    assert KEY not in caplog.text


def test_a_proxy_in_between_that_is_out_of_sorts_passes() -> None:
    replies = [(502, {}, b"<h1>Bad Gateway</h1>"), (503, {"Retry-After": "0"}, b"[]"), (200, {}, b'{"id": "job_1"}')]
    with something_else(*replies) as url, Client(url, KEY) as client:
        assert client.job("job_1") == {"id": "job_1"}


def test_a_proxy_in_between_that_stays_so() -> None:
    with (
        something_else((502, {}, b"<h1>Bad Gateway</h1>")) as url,
        Client(url, KEY, patience_seconds=0) as client,
        pytest.raises(ApiError, match=r"502 .*Bad Gateway") as caught,
    ):
        client.job("job_1")
    assert (caught.value.status, caught.value.code, caught.value.retryable) == (502, None, True)


def test_retry_after_is_kept() -> None:
    replies = [(503, {"Retry-After": "1"}, b"{}"), (200, {}, b'{"id": "job_1"}')]
    started = time.monotonic()
    with something_else(*replies) as url, Client(url, KEY) as client:
        assert client.job("job_1") == {"id": "job_1"}
    assert time.monotonic() - started >= 1


@pytest.mark.parametrize("body", [b"<html>Welcome</html>", b"", b"\xff\xfe"])
def test_a_page_of_something_else_is_named_as_such(body: bytes) -> None:
    with (
        something_else((200, {"Content-Type": "text/html"}, body)) as url,
        Client(url, KEY) as client,
        pytest.raises(EspalierError, match=r"GET /v1/jobs/job_1.*no JSON.*text/html"),
    ):
        client.job("job_1")


def test_an_answer_that_breaks_off_is_asked_for_again() -> None:
    replies = [(200, {"Content-Length": "99"}, b'{"id": '), (200, {}, b'{"id": "job_1"}')]
    with something_else(*replies) as url, Client(url, KEY) as client:
        assert client.job("job_1") == {"id": "job_1"}


def test_importing_the_client_is_light(python: str) -> None:
    """Who only follows a job needs neither torch nor numpy; nor is the service's own code there."""
    program = "import sys, espalier; print(*sys.modules)"
    loaded = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert "espalier.client" in loaded
    assert {"torch", "numpy", "safetensors", "pydantic", "store", "pruning", "api"}.isdisjoint(loaded)


def test_every_public_name_is_there() -> None:
    assert all(hasattr(espalier, name) for name in espalier.__all__)
    errors = {ApiError, Unreachable, espalier.DigestMismatch, espalier.JobFailed, espalier.NotReady}
    assert all(issubclass(error, EspalierError) for error in errors | {espalier.WaitTimedOut})
