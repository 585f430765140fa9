"""Requests: authorised, their errors typed, and patient where a request may be sent twice."""

from __future__ import annotations

import logging
import time
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
        self._patience_seconds = patience_seconds
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
    ) -> Any:
        """One request, once: the JSON of its answer. Raises ApiError and Unreachable."""
        given = {name: value for name, value in (params or {}).items() if value is not None}
        with self.stream(method, path, params=given, json=json, content=content) as response:
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
                if not response.is_success:
                    response.read()
                    raise _api_error(response)
                yield response
        except httpx.TransportError as error:
            raise Unreachable(f"{method} {path}: {error or type(error).__name__}") from error

    def patiently(self, attempt: Callable[[], T]) -> T:
        """Try until it succeeds or has failed for `patience_seconds`, with growing pauses: a restart of the service,
        a cut connection or a busy moment passes. Only for what may be done twice."""
        give_up_at = time.monotonic() + self._patience_seconds
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return attempt()
            except (Unreachable, ApiError) as error:
                if isinstance(error, ApiError) and not error.retryable:
                    raise
                pause_now = max(pause, getattr(error, "retry_after_seconds", None) or 0)
                if time.monotonic() + pause_now > give_up_at:
                    raise
                log.warning("%s; trying again in %.1f s", error, pause_now)
            time.sleep(pause_now)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


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
