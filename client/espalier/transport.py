"""Requests: authorised, their errors typed, and patient where a request may be sent twice."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

import httpx

from espalier.errors import ApiError, EspalierError, Unreachable
from espalier.shapes import Problem

T = TypeVar("T")
log = logging.getLogger("espalier")

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 10.0


class Transport:
    def __init__(self, url: str, api_key: str, patience_seconds: float) -> None:
        self.patience_seconds = patience_seconds
        self._http = httpx.Client(
            base_url=_checked(url),
            headers={"Authorization": f"Bearer {api_key.strip()}"},  # a file that holds a key ends in a newline
            # Between two reads or writes, not for a whole body; the service may validate before it answers.
            timeout=httpx.Timeout(60, connect=10),
        )

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, **params: Any) -> Any:
        return self.patiently(lambda: self.send("GET", path, params=params))

    def send(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        json: Any = None,
        content: BinaryIO | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """One request, once: the JSON of its answer. Raises ApiError and Unreachable."""
        given = {name: value for name, value in (params or {}).items() if value is not None}
        with self.stream(method, path, params=given, json=json, content=content, headers=headers) as response:
            response.read()
            try:
                return response.json()
            except ValueError as error:
                kind = response.headers.get("Content-Type", "nothing")
                raise EspalierError(
                    f"{method} {path}: the answer is no JSON but {kind}; is {self._http.base_url} the service?"
                ) from error

    @contextmanager
    def stream(self, method: str, path: str, **request: Any) -> Iterator[httpx.Response]:
        try:
            with self._http.stream(method, path, **request) as response:
                if not response.is_success and response.status_code != 304:
                    response.read()
                    raise _api_error(response)
                yield response
        except httpx.TransportError as error:
            raise Unreachable(f"{method} {path}: {error or type(error).__name__}") from error

    def read(
        self, path: str, headers: dict[str, str], answer_seconds: float, patience_seconds: float
    ) -> httpx.Response:
        """The answer to a GET, perhaps a 304: tried for up to `patience_seconds`, each time for `answer_seconds`."""

        def attempt() -> httpx.Response:
            timeout = httpx.Timeout(answer_seconds, connect=10)
            with self.stream("GET", path, headers=headers, timeout=timeout) as response:
                response.read()
                return response

        return self.patiently(attempt, patience_seconds)

    def send_once(self, path: str, json: Any = None) -> Any:
        """A POST, patiently: it bears a key, so that the service does it once, however often it has to be sent."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        return self.patiently(lambda: self.send("POST", path, json=json, headers=headers))

    def patiently(self, attempt: Callable[[], T], patience_seconds: float | None = None) -> T:
        """Try until it succeeds or has failed for `patience_seconds`, with growing pauses: a restart of the service,
        a cut connection or a busy moment passes. Only for what may be done twice."""
        most = self.patience_seconds if patience_seconds is None else min(patience_seconds, self.patience_seconds)
        give_up_at = time.monotonic() + most
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return attempt()
            except (Unreachable, ApiError) as error:
                if not is_passing(error):
                    raise
                pause_now = max(pause, getattr(error, "retry_after_seconds", None) or 0)
                if time.monotonic() + pause_now > give_up_at:
                    raise
                log.warning("%s; trying again in %.1f s", error, pause_now)
            time.sleep(pause_now)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def is_passing(error: Unreachable | ApiError) -> bool:
    """Whether the same request may succeed in a moment. That a model is still being validated is not of this kind:
    whoever asks did not wait for it, and hears so at once."""
    return isinstance(error, Unreachable) or (error.retryable and error.code != "not_ready")


def api_path(*parts: str) -> str:
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def _checked(url: str) -> httpx.URL:
    try:
        checked = httpx.URL(url)
    except httpx.InvalidURL:
        checked = httpx.URL()
    if checked.scheme not in ("http", "https") or not checked.host:
        raise EspalierError(f"{url!r} is no URL of a service; give one such as http://127.0.0.1:8000")
    return checked


def _api_error(response: httpx.Response) -> ApiError:
    try:
        problem: Problem = response.json()
        problem["status"], problem["title"]
    except (ValueError, KeyError, TypeError):  # not the service but something before it, such as a proxy
        problem = {"status": response.status_code, "title": response.reason_phrase, "detail": response.text[:300]}
    seconds = response.headers.get("Retry-After", "")
    return ApiError(problem, float(seconds) if seconds.isdigit() else None)
