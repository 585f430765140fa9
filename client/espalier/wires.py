"""All that waits: requests, sleep, files. One wire waits in place, the other lets a loop go on meanwhile."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, TypeVar

import anyio
import anyio.to_thread
import httpx2

from espalier.blocking import iterate

T = TypeVar("T")
Content = AsyncGenerator[bytes, None]


class Wire(Protocol):
    def stream(
        self, method: str, path: str, *, content: Content | None = None, **request: Any
    ) -> AbstractAsyncContextManager[httpx2.Response]: ...

    async def read(self, response: httpx2.Response) -> bytes: ...

    def chunks(self, response: httpx2.Response, size_bytes: int) -> AsyncIterator[bytes]: ...

    def lines(self, response: httpx2.Response) -> AsyncIterator[str]: ...

    async def sleep(self, seconds: float) -> None: ...

    async def work(self, do: Callable[[], T]) -> T:
        """What a disk or a processor needs time for."""

    async def close(self) -> None: ...


class BlockingWire:
    def __init__(self, **options: Any) -> None:
        self._http = httpx2.Client(**options)

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, *, content: Content | None = None, **request: Any
    ) -> AsyncIterator[httpx2.Response]:
        body = None if content is None else iterate(content)
        with self._http.stream(method, path, content=body, **request) as response:
            yield response

    async def read(self, response: httpx2.Response) -> bytes:
        return response.read()

    async def chunks(self, response: httpx2.Response, size_bytes: int) -> AsyncIterator[bytes]:
        for chunk in response.iter_bytes(size_bytes):
            yield chunk

    async def lines(self, response: httpx2.Response) -> AsyncIterator[str]:
        for line in response.iter_lines():
            yield line

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def work(self, do: Callable[[], T]) -> T:
        return do()

    async def close(self) -> None:
        self._http.close()


class LoopWire:
    def __init__(self, **options: Any) -> None:
        self._http = httpx2.AsyncClient(**options)

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, *, content: Content | None = None, **request: Any
    ) -> AsyncIterator[httpx2.Response]:
        async with self._http.stream(method, path, content=content, **request) as response:
            yield response

    async def read(self, response: httpx2.Response) -> bytes:
        return await response.aread()

    async def chunks(self, response: httpx2.Response, size_bytes: int) -> AsyncIterator[bytes]:
        async for chunk in response.aiter_bytes(size_bytes):
            yield chunk

    async def lines(self, response: httpx2.Response) -> AsyncIterator[str]:
        async for line in response.aiter_lines():
            yield line

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def work(self, do: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(do)

    async def close(self) -> None:
        await self._http.aclose()
