"""Who calls, and may it: `Authorization: Bearer KEY`, looked up before a byte of the body is read.

Or, for the service's own pages, the cookie of a session (`api.sessions`), where no such header is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, ClassVar

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from api import sessions
from api.bodies import JsonRequest, require_json
from api.idempotency import done_once
from api.problems import Problem
from api.rate_limits import Standing
from api.services import Services, services_of
from store.audit import Actor, acting
from store.keys import Caller, Scope, caller_by_id, caller_of

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
    if "authorization" not in request.headers:
        caller = await session_caller(request)
        if caller is not None:
            sessions.refuse_cross_site(request)
            return caller
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        raise _unauthorized("send your API key: Authorization: Bearer KEY", "Bearer")
    services = await services_of(request)
    found = await run_in_threadpool(_look_up, services, lambda session: caller_of(session, key))
    if found is None:
        raise _unauthorized("the key is unknown, expired or revoked", 'Bearer error="invalid_token"')
    return _noted(request, *found)


async def session_caller(request: Request) -> Caller | None:
    """Of the session that the request's cookie opens; None: there is none, or its key opens nothing any more."""
    services = await services_of(request)
    key_id = sessions.key_id_of(request, services.settings)
    if key_id is None:
        return None
    found = await run_in_threadpool(_look_up, services, lambda session: caller_by_id(session, key_id))
    return None if found is None else sessions.lessened(_noted(request, *found))


def _noted(request: Request, caller: Caller, standing: Standing | None) -> Caller:
    """Raises Problem: it asks too often."""
    if caller.is_use_due:
        request.state.used_key = caller.key_id
    if standing is not None:
        request.state.standing = standing
        if not standing.is_within:
            raise standing.problem()
    return caller


def _look_up(services: Services, find: Callable[[Session], Caller | None]) -> tuple[Caller, Standing | None] | None:
    with services.database.reading() as session:
        caller = find(session)
    if caller is None:
        return None
    return caller, services.rates.hit(caller.key_id) if services.rates is not None else None


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
