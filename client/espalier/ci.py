"""Keys out of what a run of GitHub Actions can prove: an OIDC token, exchanged for a key of at most 15 minutes, and
again before that ends, however long the run waits for its job."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

import httpx2

from espalier.errors import EspalierError, Unreachable, api_error
from espalier.shapes import Problem
from espalier.wires import Wire

RENEWED_BEFORE_SECONDS = 120.0
"""The end of a key: what is under way then still ends by it."""


class CiKey:
    """
    Raises:
        EspalierError: this is no run that may ask for tokens; says what to write in the workflow.
    """

    def __init__(self, wire: Callable[..., Wire], url: str, audience: str, trust_rule: str | None) -> None:
        try:
            self._tokens_url = os.environ["ACTIONS_ID_TOKEN_REQUEST_URL"]
            self._request_token = os.environ["ACTIONS_ID_TOKEN_REQUEST_TOKEN"]
        except KeyError as missing:
            raise EspalierError(
                f"{missing.args[0]} is not set: a workflow of GitHub Actions needs `permissions: {{id-token: write}}`; "
                "elsewhere give the token itself: Client.for_token, ESPALIER_OIDC_TOKEN"
            ) from None
        self._wire = wire(timeout=httpx2.Timeout(60, connect=10))
        self._exchange_url, self._audience, self._trust_rule = f"{url.rstrip('/')}/v1/auth/token", audience, trust_rule
        self._key, self._until = "", 0.0

    async def key(self) -> str:
        """Raises ApiError where no trust rule takes the token, and Unreachable."""
        if time.monotonic() >= self._until:
            asked_at = time.monotonic()
            url = httpx2.URL(self._tokens_url).copy_merge_params({"audience": self._audience})
            issued = await self._send("GET", str(url), headers={"Authorization": f"Bearer {self._request_token}"})
            body = {"token": issued["value"], "trust_rule": self._trust_rule}
            given = await self._send("POST", self._exchange_url, json=body)
            self._key, self._until = given["access_token"], asked_at + given["expires_in"] - RENEWED_BEFORE_SECONDS
        return self._key

    async def close(self) -> None:
        await self._wire.close()

    async def _send(self, method: str, url: str, **request: Any) -> Any:
        try:
            async with self._wire.stream(method, url, **request) as response:
                body = await self._wire.read(response)
        except httpx2.TransportError as error:
            raise Unreachable(f"{method} {url}: {error or type(error).__name__}") from error
        if response.status_code >= 500:
            raise Unreachable(f"{method} {url}: {response.status_code}")
        try:
            document = json.loads(body)
            if response.is_success:
                return document
            problem: Problem = {"status": response.status_code, "title": response.reason_phrase, **document}  # type: ignore[typeddict-item]
            raise api_error(problem)
        except (ValueError, TypeError) as error:
            raise EspalierError(f"{method} {url}: {response.status_code}, and no JSON") from error
