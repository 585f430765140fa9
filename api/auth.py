"""Who calls: `Authorization: Bearer KEY`, looked up before a byte of the body is read."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from api.bodies import JsonRequest, require_json
from api.idempotency import done_once
from api.problems import Problem
from api.services import Services, services_of
from store.keys import project_of

DOCUMENTED = Depends(
    HTTPBearer(scheme_name="key", description="The API key, as it was printed at the first start.", auto_error=False)
)
"""For the OpenAPI document alone; `KeyedRoute` is what refuses."""


class KeyedRoute(APIRoute):
    """A route of a project: needs a key, and takes JSON strictly where it has a body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_keyed(request: Request) -> Response:
            request.state.project_id = await _authenticate(request)
            if self.body_field is not None:
                require_json(request, optional=not self.body_field.field_info.is_required())
            read_strictly = JsonRequest(request.scope, request.receive)
            return await done_once(self, read_strictly, request.state.project_id, handle)

        return handle_keyed


async def _authenticate(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        raise _unauthorized("send your API key: Authorization: Bearer KEY", "Bearer")
    project_id = await run_in_threadpool(_look_up, await services_of(request), key)
    if project_id is None:
        raise _unauthorized("the key is unknown or has expired", 'Bearer error="invalid_token"')
    return project_id


def _look_up(services: Services, key: str) -> str | None:
    with services.database.reading() as session:
        return project_of(session, key)


def _unauthorized(detail: str, challenge: str) -> Problem:
    return Problem("unauthorized", detail, param="header:authorization", headers={"WWW-Authenticate": challenge})


async def _project_of(request: Request) -> str:
    project_id: str = request.state.project_id
    return project_id


ProjectId = Annotated[str, Depends(_project_of)]
"""A parameter of a route: the caller's project."""
