"""Who calls, and may it: `Authorization: Bearer KEY`, looked up before a byte of the body is read."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, ClassVar

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from api.bodies import JsonRequest, require_json
from api.idempotency import done_once
from api.problems import Problem
from api.rate_limits import Standing
from api.services import Services, services_of
from store.audit import Actor, acting
from store.keys import Caller, Scope, caller_of

DOCUMENTED = Depends(
    HTTPBearer(scheme_name="key", description="The API key, as it was printed at the first start.", auto_error=False)
)
"""For the OpenAPI document alone; `KeyedRoute` is what refuses."""

READING = {"GET", "HEAD"}


class KeyedRoute(APIRoute):
    """A route of a project: needs a key with its scope, and takes JSON strictly where it has a body.

    The scope is `read` for what reads and `write` for what changes; a subclass names another.
    """

    scope: ClassVar[Scope | None] = None

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        methods = set(options.get("methods") or ["GET"])
        options["openapi_extra"] = {**(options.get("openapi_extra") or {}), "x-scope": self._scope_for(methods)}
        super().__init__(path, endpoint, **options)

    @classmethod
    def _scope_for(cls, methods: set[str]) -> Scope:
        return cls.scope or ("read" if methods <= READING else "write")

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_keyed(request: Request) -> Response:
            caller = await _authenticate(request)
            request.state.caller = caller
            acting.set(Actor(caller.project_id, caller.key_id, request.state.request_id))
            scope = self._scope_for({request.method})
            if not caller.may(scope):
                raise insufficient_scope(scope)
            if self.body_field is not None:
                require_json(request, optional=not self.body_field.field_info.is_required())
            read_strictly = JsonRequest(request.scope, request.receive)
            return await done_once(self, read_strictly, caller.project_id, handle)

        return handle_keyed


class AdminRoute(KeyedRoute):
    scope = "admin"


class OpsRoute(KeyedRoute):
    scope = "ops"


async def _authenticate(request: Request) -> Caller:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        raise _unauthorized("send your API key: Authorization: Bearer KEY", "Bearer")
    caller, standing = await run_in_threadpool(_look_up, await services_of(request), key)
    if caller is None:
        raise _unauthorized("the key is unknown, expired or revoked", 'Bearer error="invalid_token"')
    if caller.is_use_due:
        request.state.used_key = caller.key_id
    if standing is not None:
        request.state.standing = standing
        if not standing.is_within:
            raise standing.problem()
    return caller


def _look_up(services: Services, key: str) -> tuple[Caller | None, Standing | None]:
    with services.database.reading() as session:
        caller = caller_of(session, key)
    if caller is None or services.rates is None:
        return caller, None
    return caller, services.rates.hit(caller.key_id)


def _unauthorized(detail: str, challenge: str) -> Problem:
    return Problem("unauthorized", detail, param="header:authorization", headers={"WWW-Authenticate": challenge})


def insufficient_scope(scope: str) -> Problem:
    """RFC 6750, section 3.1."""
    whose = "an operator's key" if scope == "operator" else f"a key with the scope {scope}"
    return Problem(
        "insufficient_scope",
        f"this needs {whose}; GET /v1/keys lists the project's, for its admin",
        scope=scope,
        headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
    )


async def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


Calling = Annotated[Caller, Depends(_caller)]
"""A parameter of a route: the caller itself, for what goes beyond its project."""


async def _project_of(caller: Calling) -> str:
    return caller.project_id


ProjectId = Annotated[str, Depends(_project_of)]
"""A parameter of a route: the caller's project."""
