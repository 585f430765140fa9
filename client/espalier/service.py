"""The service itself: what it can, how it is, who works."""

from __future__ import annotations

from typing import Any

from espalier.shapes import Strategy, Workers
from espalier.transport import Transport


class Service:
    """The part of `AsyncClient` that asks this."""

    _transport: Transport

    async def strategies(self) -> list[Strategy]:
        """Named recipes, with what each fills in."""
        return [strategy async for strategy in self._transport.pages("/v1/strategies")]

    async def capabilities(self) -> dict[str, Any]:
        """The values and limits of this service."""
        capabilities: dict[str, Any] = await self._transport.get("/v1/capabilities")
        return capabilities

    async def readiness(self) -> dict[str, str]:
        """`status` is `ready`, or `degraded`, with what is away. Needs no key."""
        readiness: dict[str, str] = await self._transport.get("/readyz")
        return readiness

    async def workers(self) -> Workers:
        """Who works and on what, those alive first; and what waits in the queues. Scope ops."""
        workers: Workers = await self._transport.get("/v1/workers")
        return workers

    async def metrics(self) -> str:
        """In Prometheus' text format. Scope ops."""
        return (await self._transport.read("/metrics")).decode()

    async def request(self, method: str, path: str, *, params: dict[str, Any] | None = None, json: Any = None) -> Any:
        """What has no method of its own: the JSON of the answer, None where it has none. A POST is done once, however
        often it has to be sent."""
        if method == "POST":
            return await self._transport.post(path, json, **(params or {}))
        return await self._transport.patiently(lambda: self._transport.send(method, path, params=params, json=json))
