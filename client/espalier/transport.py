"""HTTP: one request and its answer, what is tried again, and what must not be sent twice."""

from __future__ import annotations

import json as json_of
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import quote

import httpx2

from espalier.ci import CiKey
from espalier.errors import ApiError, EspalierError, Unreachable, api_error
from espalier.patience import Patience
from espalier.shapes import Problem
from espalier.version import HEADER, VERSION, warn_once
from espalier.wires import Content, Wire

T = TypeVar("T")


class Transport:
    """`api_key` may be one that is renewed: asked for before each request."""

    def __init__(self, wire: Callable[..., Wire], url: str, api_key: str | CiKey, patience_seconds: float) -> None:
        self.patience_seconds = patience_seconds
        self._key = api_key
        self._url = _checked(url)
        self._met_versions: set[str] = set()
        self.wire = wire(
            base_url=self._url,
            headers={"User-Agent": f"espalier/{VERSION}"},
            # Between two reads or writes, not for a whole body; the service may validate before it answers.
            timeout=httpx2.Timeout(60, connect=10),
        )

    async def close(self) -> None:
        await self.wire.close()
        if isinstance(self._key, CiKey):
            await self._key.close()

    @asynccontextmanager
    async def stream(self, method: str, path: str, **request: Any) -> AsyncIterator[httpx2.Response]:
        """One request, once; its answer's body is still to be read. Raises ApiError and Unreachable."""
        key = self._key.strip() if isinstance(self._key, str) else await self._key.key()
        headers = {**(request.pop("headers", None) or {}), "Authorization": f"Bearer {key}"}
        try:
            async with self.wire.stream(method, path, headers=headers, **request) as response:
                warn_once(response.headers.get(HEADER), self._met_versions)
                if not response.is_success and response.status_code != 304:
                    await self.wire.read(response)
                    raise _error_of(response)
                yield response
        except httpx2.TransportError as error:
            raise Unreachable(f"{method} {path}: {error or type(error).__name__}") from error

    async def send(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        json: Any = None,
        content: Content | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """One request, once: the JSON of its answer, None where it has no body."""
        given = {name: value for name, value in (params or {}).items() if value is not None}
        async with self.stream(method, path, params=given, json=json, content=content, headers=headers) as response:
            body = await self.wire.read(response)
            if response.status_code == 204:
                return None
            try:
                return json_of.loads(body)
            except ValueError as error:
                kind = response.headers.get("Content-Type", "nothing")
                raise EspalierError(
                    f"{method} {path}: the answer is no JSON but {kind}; is {self._url} the service?"
                ) from error

    async def patiently(self, attempt: Callable[[], Awaitable[T]], patience_seconds: float | None = None) -> T:
        """Try until it succeeds or has failed for `patience_seconds`. Only for what may be done twice."""
        most = self.patience_seconds if patience_seconds is None else min(patience_seconds, self.patience_seconds)
        patience = Patience(self.wire, most)
        while True:
            try:
                return await attempt()
            except (Unreachable, ApiError) as error:
                await patience.bear(error)

    async def get(self, path: str, **params: Any) -> Any:
        return await self.patiently(lambda: self.send("GET", path, params=params))

    async def post(self, path: str, json: Any = None, **params: Any) -> Any:
        """Patiently: it bears a key, so that the service does it once, however often it has to be sent."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        return await self.patiently(lambda: self.send("POST", path, params=params, json=json, headers=headers))

    async def patch(self, path: str, json: Any) -> Any:
        return await self.patiently(lambda: self.send("PATCH", path, json=json))

    async def delete(self, path: str) -> None:
        """A second request may find nothing, because the answer to the first was lost: that is as good."""
        try:
            await self.patiently(lambda: self.send("DELETE", path))
        except ApiError as error:
            if error.status != 404:
                raise

    async def read(self, path: str, **request: Any) -> bytes:
        """The body of an answer to a GET, whatever it is."""

        async def attempt() -> bytes:
            async with self.stream("GET", path, **request) as response:
                return await self.wire.read(response)

        return await self.patiently(attempt)

    async def pages(self, path: str, **params: Any) -> AsyncGenerator[Any, None]:
        """The rows of all pages, each page asked for when it is needed."""
        page = await self.get(path, **params)
        for row in page["data"]:
            yield row
        while page["has_more"]:
            page = await self.get(path, **params, after=page["next_cursor"])
            for row in page["data"]:
                yield row


def api_path(*parts: str) -> str:
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def _checked(url: str) -> httpx2.URL:
    try:
        checked = httpx2.URL(url)
    except httpx2.InvalidURL:
        checked = httpx2.URL()
    if checked.scheme not in ("http", "https") or not checked.host:
        raise EspalierError(f"{url!r} is no URL of a service; give one such as http://127.0.0.1:8000")
    return checked


def _error_of(response: httpx2.Response) -> ApiError:
    try:
        problem: Problem = response.json()
        problem["status"], problem["title"]
    except (ValueError, KeyError, TypeError):  # not the service but something before it, such as a proxy
        problem = {"status": response.status_code, "title": response.reason_phrase, "detail": response.text[:300]}
    seconds = response.headers.get("Retry-After", "")
    return api_error(problem, float(seconds) if seconds.isdigit() else None)
