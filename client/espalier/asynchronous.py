"""`AsyncClient`: what a user does with the service, as coroutines; `Client` is the same, blocking."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Self

from espalier.access import Access
from espalier.ci import CiKey
from espalier.errors import EspalierError
from espalier.inputs import Inputs
from espalier.jobs import Jobs
from espalier.results import Results
from espalier.service import Service
from espalier.transport import Transport
from espalier.webhooks import Webhooks
from espalier.wires import LoopWire, Wire


class AsyncClient(Inputs, Jobs, Results, Webhooks, Access, Service):
    """`url` and `api_key` default to ESPALIER_URL and ESPALIER_API_KEY.

    What may be sent twice is, for `patience_seconds`, where the service is away: reads, verbs, and what it then makes
    once. Small uploads are sent once, for the caller to decide. Errors: see `espalier.errors`.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        patience_seconds: float = 60,
        wire: Callable[..., Wire] = LoopWire,
    ) -> None:
        url = url or os.environ.get("ESPALIER_URL")
        api_key = api_key or os.environ.get("ESPALIER_API_KEY")
        if not url or not api_key:
            raise EspalierError("give url and api_key, or set ESPALIER_URL and ESPALIER_API_KEY")
        self._transport = Transport(wire, url, api_key, patience_seconds)

    @classmethod
    async def for_token(
        cls,
        token: str,
        url: str | None = None,
        *,
        trust_rule: str | None = None,
        patience_seconds: float = 60,
        wire: Callable[..., Wire] = LoopWire,
    ) -> Self:
        """In a CI run: a client with the key of at most 15 minutes that its OIDC token is exchanged for. A token is
        exchanged once; `trust_rule` says which rule is meant, where several take it.

        Raises:
            ApiError: `token_refused`: no trust rule takes it; the project's audit log says why.
        """
        async with cls(url, "none", patience_seconds=patience_seconds, wire=wire) as stranger:
            body = {"token": token, "trust_rule": trust_rule}
            given = await stranger._transport.send("POST", "/v1/auth/token", json=body)
        return cls(url, given["access_token"], patience_seconds=patience_seconds, wire=wire)

    @classmethod
    def for_ci(
        cls,
        audience: str,
        url: str | None = None,
        *,
        trust_rule: str | None = None,
        patience_seconds: float = 60,
        wire: Callable[..., Wire] = LoopWire,
    ) -> Self:
        """In a run of GitHub Actions with `permissions: {id-token: write}`: as `for_token`, with a token of the run's
        own for `audience`, and again before the key ends, as long as the client lives.

        Raises:
            EspalierError: this run may not ask for tokens.
        """
        url = url or os.environ.get("ESPALIER_URL")
        if not url:
            raise EspalierError("give url, or set ESPALIER_URL")
        made = cls.__new__(cls)
        made._transport = Transport(wire, url, CiKey(wire, url, audience, trust_rule), patience_seconds)
        return made

    async def close(self) -> None:
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()
