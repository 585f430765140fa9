"""`Idempotency-Key` on every POST: a request that is sent again is answered again, and done once.

A route whose work is one transaction says so (`in_one_transaction`) and has the key's row in it: `Once.before` first,
`Once.keep` last. For every other route the row is reserved before the route is called and answered behind it; one that
keeps the answer in its own last transaction (`Once.keep`) leaves no gap between the two, in which a process could die.

Only what was done is kept, that is a 2xx: a refusal did nothing, and the same request may be right later.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from api.bodies import JsonRequest
from api.problems import Problem
from api.services import Services, services_of
from store import idempotency
from store.database import AWAY
from store.idempotency import RESERVED_SECONDS, Answer, InProgress, Key, Lost, Mismatch
from store.ids import new_id

log = logging.getLogger(__name__)

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
_SANE_KEY = re.compile(r"[ -~]{1,255}")
_SAYS_MORE = ("content-type", "repr-digest", "upload-length", "upload-complete")
"""Headers that are a part of what is asked for."""
_KEPT_HEADERS = ("location",)

ShownOnce = Annotated[str, Field(json_schema_extra={"x-shown-once": True, "type": ["string", "null"]})]
"""A field of a document that is never stored: null, where the answer is given again."""

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
Handle = Callable[[Request], Coroutine[Any, Any, Response]]


def in_one_transaction(endpoint: Endpoint) -> Endpoint:
    """The route calls `Once.before` and `Once.keep` in the transaction of its work."""
    endpoint.__dict__["in_one_transaction"] = True
    return endpoint


class Once:
    """The key of one request, if it bears one."""

    def __init__(self, key: Key | None) -> None:
        self._key = key
        self.is_kept = False

    def before(self, session: Session) -> Response | None:
        """What was answered to this request before. Waits for one with its key that is being answered. Raises Problem
        where that takes too long, or was another one."""
        if self._key is None:
            return None
        with _telling_problems():
            answer = idempotency.enter(session, self._key)
        return None if answer is None else _again(answer)

    def keep(
        self,
        session: Session,
        document: BaseModel,
        status: int = 200,
        location: str | None = None,
        content_digest: str | None = None,
    ) -> None:
        """The answer, in the transaction of what it tells of. Raises Problem where another request has the key now."""
        if self._key is None:
            return
        body = _without_secrets(type(document), document.model_dump(mode="json"))
        headers = {} if location is None else {"location": location}
        with _telling_problems():
            idempotency.answer(session, self._key, Answer(status, headers, json.dumps(body), content_digest))
        self.is_kept = True


async def _once_of(request: Request) -> Once:
    once: Once = request.state.once
    return once


OnceOnly = Annotated[Once, Depends(_once_of)]
"""A parameter of a route."""


async def done_once(route: APIRoute, request: JsonRequest, project_id: str, handle: Handle) -> Response:
    """Around the handler of every route of a project."""
    key = await _key_of(route, request, project_id)
    request.state.once = once = Once(key)
    if key is None or hasattr(route.endpoint, "in_one_transaction"):
        return await handle(request)
    services = await services_of(request)
    answer = await run_in_threadpool(_reserve, services, key)
    if answer is not None:
        if answer.content_digest is not None and answer.content_digest != await _digest(request, services):
            raise _mismatch("with another body")
        return _again(answer)
    renewing = asyncio.create_task(_renew(services, key))
    try:
        response = await handle(request)
        if not once.is_kept:
            await run_in_threadpool(_finish, services, key, response, route)
    except Exception:
        await run_in_threadpool(_release, services, key)
        raise
    finally:
        renewing.cancel()
    return response


async def _key_of(route: APIRoute, request: JsonRequest, project_id: str) -> Key | None:
    given = request.headers.getlist(HEADER)
    if not given or request.method != "POST":
        return None
    if len(given) > 1 or not _SANE_KEY.fullmatch(given[0]):
        detail = f"{HEADER} has 1 to 255 printable ASCII characters, such as a UUID, and comes once"
        raise Problem("invalid_request", detail, param="header:idempotency-key")
    body = _canonical(await request.body()) if route.body_field is not None else ""
    headers = [request.headers.get(name) for name in _SAYS_MORE]
    asked = [request.url.path, sorted(request.query_params.multi_items()), headers, body]
    fingerprint = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    return Key(project_id, f"POST {route.path}", given[0], fingerprint, new_id("req"))


def _canonical(body: bytes) -> str:
    """JSON that says the same is the same; what is no JSON is refused later, and stands for itself."""
    try:
        return json.dumps(json.loads(body), sort_keys=True)
    except (ValueError, RecursionError):
        return body.hex()


async def _digest(request: Request, services: Services) -> str:
    """Of a streamed body; one that is longer than any is like none."""
    digest, size_bytes = hashlib.sha256(), 0
    async for chunk in request.stream():
        digest.update(chunk)
        size_bytes += len(chunk)
        if size_bytes > services.settings.max_upload_bytes:
            return ""
    return digest.hexdigest()


def _reserve(services: Services, key: Key) -> Answer | None:
    with _telling_problems(), services.database.transaction() as session:
        return idempotency.enter(session, key)


async def _renew(services: Services, key: Key) -> None:
    def renew() -> bool:
        with services.database.transaction() as session:
            return idempotency.renew(session, key)

    is_ours = True
    while is_ours:
        await asyncio.sleep(RESERVED_SECONDS / 3)
        try:
            is_ours = await run_in_threadpool(renew)
        except AWAY as error:
            log.warning("a reservation could not be renewed: %s", error)


def _finish(services: Services, key: Key, response: Response, route: APIRoute) -> None:
    if not 200 <= response.status_code < 300:
        return _release(services, key)
    headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
    body = ""  # of what is no JSON, or a stream, the status alone is kept
    if response.headers.get("content-type") == "application/json" and hasattr(response, "body"):
        body = json.dumps(_without_secrets(route.response_model, json.loads(bytes(response.body))))
    try:
        with services.database.transaction() as session:
            idempotency.answer(session, key, Answer(response.status_code, headers, body, None))
    except (Lost, *AWAY) as error:
        log.warning("the answer to a request could not be kept: %r", error)  # it was done, and is answered
    return None


def _release(services: Services, key: Key) -> None:
    try:
        with services.database.transaction() as session:
            idempotency.release(session, key)
    except AWAY as error:
        log.warning("a reservation could not be released, and runs out: %s", error)


def _without_secrets(model: Any, body: Any) -> Any:
    if not (isinstance(model, type) and issubclass(model, BaseModel) and isinstance(body, dict)):
        return body
    extras = {name: field.json_schema_extra for name, field in model.model_fields.items()}
    secret = {name for name, extra in extras.items() if isinstance(extra, dict) and extra.get("x-shown-once")}
    return {name: None if name in secret else value for name, value in body.items()}


def _again(answer: Answer) -> Response:
    media_type = "application/json" if answer.body else None
    return Response(answer.body, answer.status, {**answer.headers, REPLAYED: "true"}, media_type)


@contextmanager
def _telling_problems() -> Iterator[None]:
    try:
        yield
    except Mismatch:
        raise _mismatch("with another request") from None
    except (InProgress, Lost):
        detail = "a request with this key is not answered yet; send it again to have its answer"
        param = "header:idempotency-key"
        raise Problem("idempotency_in_progress", detail, param=param, headers={"Retry-After": "1"}) from None


def _mismatch(how: str) -> Problem:
    detail = f"this key came before, {how}; choose a new key for each thing to do, and keep it for repeats alone"
    return Problem("idempotency_mismatch", detail, param="header:idempotency-key")
