"""`POST /v1/auth/token`: the one route of a project that needs no key; it gives one."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from api.access_documents import TokenDocument
from api.access_schemas import TokenRequest
from api.bodies import JsonRequest, require_json
from api.exchange import exchange
from api.problems import documented
from api.services import Here, services_of


class TokenRoute(APIRoute):
    """Takes JSON strictly, and from each address so much in a minute."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_limited(request: Request) -> Response:
            services = await services_of(request)
            standing = services.exchanges.hit(request.client.host if request.client else "")
            request.state.standing = standing
            if not standing.is_within:
                raise standing.problem()
            require_json(request)
            return await handle(JsonRequest(request.scope, request.receive))

        return handle_limited


router = APIRouter(tags=["access"], route_class=TokenRoute)


@router.post(
    "/auth/token",
    responses=documented(
        *("invalid_json", "token_refused", "too_large", "unsupported_media_type", "invalid_request"),
        *("rate_limited", "internal_error", "unavailable"),
    ),
)
async def exchange_token(given: TokenRequest, request: Request, response: Response, services: Here) -> TokenDocument:
    """Exchange the OIDC token of a CI run for a key of at most 15 minutes, by a trust rule of the project. Each token
    is exchanged once."""
    response.headers["Cache-Control"] = "no-store"
    request_id: str = request.state.request_id
    return await anyio.to_thread.run_sync(
        partial(exchange, services, given.token, given.trust_rule, request_id), limiter=services.issuers.threads
    )
