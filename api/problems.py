"""Errors on the wire: RFC 9457, `application/problem+json`, one code for each thing a caller can do something about.

`param` says where: a JSON pointer into the body (`/recipe/schedule/fraction`; the empty string is the whole body), or
`query:limit`, `path:job_id`, `header:range`; null where no single place is at fault.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from fastapi import Request
from pydantic import BaseModel, Field
from sqlalchemy.exc import ProgrammingError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from store.database import is_schema_another
from store.quotas import LIVE_JOBS, QuotaExceeded
from store.room import is_full

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

Code = Literal[
    "bad_request",
    "invalid_json",
    "unauthorized",
    "insufficient_scope",
    "quota_exceeded",
    "token_refused",
    "invalid_link",
    "not_found",
    "method_not_allowed",
    "invalid_transition",
    "not_ready",
    "in_use",
    "no_sensitivity",
    "not_measured_yet",
    "idempotency_in_progress",
    "link_expired",
    "mismatching_upload_offset",
    "superseded",
    "incomplete_upload",
    "completed_upload",
    "inconsistent_upload_length",
    "too_many_webhooks",
    "webhook_disabled",
    "too_large",
    "unsupported_media_type",
    "range_not_satisfiable",
    "invalid_request",
    "unsupported_format",
    "invalid_content",
    "digest_mismatch",
    "invalid_reference",
    "dataset_mismatch",
    "recipe_refused",
    "rate_limited",
    "idempotency_mismatch",
    "too_many_uploads",
    "internal_error",
    "unavailable",
    "insufficient_storage",
]


class Kind(NamedTuple):
    status: int
    title: str
    retryable: bool = False
    """The same request may succeed later."""


PROBLEMS: dict[Code, Kind] = {
    "bad_request": Kind(400, "The request cannot be understood"),
    "invalid_json": Kind(400, "The body is not JSON"),
    "unauthorized": Kind(401, "No key was given, or the key opens nothing"),
    "insufficient_scope": Kind(403, "The key opens the project, but not this; `scope` is what it lacks"),
    "quota_exceeded": Kind(403, "The project has all it may have; `quota`, `limit` and `used` say of what"),
    "token_refused": Kind(403, "No trust rule takes this token; the project's audit log says why"),
    "invalid_link": Kind(403, "The link was not made here, or was changed"),
    "not_found": Kind(404, "There is no such thing"),
    "method_not_allowed": Kind(405, "The method is not allowed here"),
    "invalid_transition": Kind(409, "The job's status does not allow this; `allowed` lists what it does"),
    "not_ready": Kind(409, "The model or dataset is still being validated", retryable=True),
    "in_use": Kind(409, "A job refers to it"),
    "no_sensitivity": Kind(409, "The job's recipe asks for no sensitivity scan"),
    "not_measured_yet": Kind(409, "The job has not measured it yet", retryable=True),
    "idempotency_in_progress": Kind(409, "The first request with this key is not answered yet", retryable=True),
    "link_expired": Kind(410, "The link has expired"),
    "mismatching_upload_offset": Kind(409, "The content begins at another byte than the upload waits for"),
    "superseded": Kind(409, "A later request took the upload over, or it was deleted meanwhile"),
    "incomplete_upload": Kind(409, "The upload is not complete"),
    "completed_upload": Kind(400, "The upload is complete already"),
    "inconsistent_upload_length": Kind(400, "The upload's length was said differently"),
    "too_many_webhooks": Kind(409, "The project has as many webhooks as it may"),
    "webhook_disabled": Kind(409, "The webhook is disabled; enable it first"),
    "too_large": Kind(413, "The body is larger than the service takes"),
    "unsupported_media_type": Kind(415, "The body has a content type or encoding that is not taken here"),
    "range_not_satisfiable": Kind(416, "The range begins behind the end of the content"),
    "invalid_request": Kind(422, "A field or parameter is missing, unknown or out of its limits"),
    "unsupported_format": Kind(422, "Files of this format are not taken; the detail says how to convert them"),
    "invalid_content": Kind(422, "The file is not what its format says"),
    "digest_mismatch": Kind(422, "The content is not what its digest promises"),
    "invalid_reference": Kind(422, "The model or dataset was found invalid"),
    "dataset_mismatch": Kind(422, "The dataset does not fit the model"),
    "recipe_refused": Kind(422, "The recipe cannot do on this model and dataset what it asks for"),
    "rate_limited": Kind(429, "The key has made too many requests; `Retry-After` says when to go on", retryable=True),
    "idempotency_mismatch": Kind(422, "The key came before, with another request"),
    "too_many_uploads": Kind(429, "The project has too many uploads that are not complete", retryable=True),
    "internal_error": Kind(500, "The service failed; its log names this request_id"),
    "unavailable": Kind(503, "A part of the service does not answer", retryable=True),
    "insufficient_storage": Kind(507, "The service has no room left", retryable=True),
}

_BY_STATUS: dict[int, Code] = {kind.status: code for code, kind in reversed(PROBLEMS.items())}
"""What an error of the framework, which knows only a status, is called."""


class Fault(TypedDict):
    """One place that is wrong. `code` is the check that failed, as pydantic or the table above names it."""

    code: str
    param: str | None
    message: str


class ProblemDocument(BaseModel):
    """RFC 9457; `code` is one of the table in the description of this document."""

    type: str = Field(examples=["urn:espalier:problem:invalid_request"])
    title: str
    status: int
    detail: str
    code: Code
    param: str | None = Field(description="JSON pointer into the body, or query:name, path:name, header:name")
    errors: list[Fault]
    request_id: str
    retryable: bool
    allowed: list[str] | None = Field(None, description="invalid_transition: what the job's status allows")
    scope: str | None = Field(None, description="insufficient_scope: read, write, ops, admin; or operator")
    quota: str | None = Field(None, description="quota_exceeded: live_jobs or stored_bytes")
    limit: int | None = Field(None, description="quota_exceeded: what the project may have")
    used: int | None = Field(None, description="quota_exceeded: what it would have had")


class Problem(HTTPException):
    """Raise it anywhere in a request."""

    def __init__(
        self,
        code: Code,
        detail: str,
        *,
        param: str | None = None,
        faults: Sequence[Fault] = (),
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(status or PROBLEMS[code].status, detail, dict(headers or {}))
        self.code, self.param, self.members = code, param, members
        self.faults = list(faults) or ([Fault(code=code, param=param, message=detail)] if param is not None else [])


def problem_response(request: Request, problem: Problem) -> Response:
    kind = PROBLEMS[problem.code]
    body = {
        "type": f"urn:espalier:problem:{problem.code}",
        "title": kind.title,
        "status": problem.status_code,
        "detail": problem.detail,
        "code": problem.code,
        "param": problem.param,
        "errors": problem.faults,
        "request_id": request.state.request_id,
        "retryable": kind.retryable,
        **problem.members,
    }
    # ASCII: what a caller sent may hold half a surrogate pair, which UTF-8 cannot say.
    return Response(
        json.dumps(body), problem.status_code, {**(problem.headers or {}), "Cache-Control": "no-store"}, MEDIA_TYPE
    )


EVERYWHERE: tuple[Code, ...] = (
    *("unauthorized", "insufficient_scope", "rate_limited"),
    *("invalid_request", "internal_error", "unavailable"),
)
"""What every route of a project can answer with."""

JSON_BODY: tuple[Code, ...] = ("invalid_json", "too_large", "unsupported_media_type")
"""And one that takes JSON."""


def documented(*codes: Code) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can answer with these problems, for the OpenAPI document."""
    responses: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        kind = PROBLEMS[code]
        said = f"`{code}`: {kind.title}"
        if kind.status in responses:
            responses[kind.status]["description"] += f"\n\n{said}"
        else:
            content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
            responses[kind.status] = {"description": said, "content": content}
    return responses


# Handlers: what other code raises, as a problem.


async def on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error, Problem):
        return problem_response(request, error)
    code = _BY_STATUS.get(error.status_code, "bad_request")
    detail = {
        "not_found": f"nothing is at {request.url.path}; GET /openapi.json lists all there is",
        "method_not_allowed": f"{request.method} is not allowed here; the header Allow lists what is",
    }.get(code, error.detail)
    return problem_response(request, Problem(code, detail, status=error.status_code, headers=error.headers))


async def on_store_unavailable(request: Request, error: Exception) -> Response:
    """Nothing was stored, and nothing is half-written."""
    if is_full(error):
        log.error("request %s: no room is left", request.state.request_id, exc_info=error)
        return problem_response(request, no_room())
    log.error("request %s: the store does not answer", request.state.request_id, exc_info=error)
    return problem_response(
        request,
        Problem("unavailable", "the store does not answer at the moment; try again", headers={"Retry-After": "1"}),
    )


async def on_quota_exceeded(request: Request, error: Exception) -> Response:
    assert isinstance(error, QuotaExceeded)
    remedy = "wait until one ends, or cancel one" if error.quota == LIVE_JOBS else "delete what is not needed"
    members: dict[str, Any] = {"quota": error.quota, "limit": error.limit, "used": error.used}
    return problem_response(request, Problem("quota_exceeded", f"{error}; {remedy}", **members))


def no_room() -> Problem:
    detail = "the service has no room left; try again when its operator has made some, or when deleted content is gone"
    return Problem("insufficient_storage", detail, headers={"Retry-After": "60"})


async def on_programming_error(request: Request, error: Exception) -> Response:
    """A schema that is missing or older than this process is no fault of it. SQLite's way to say so is the same error
    as for a database that is away."""
    assert isinstance(error, ProgrammingError)
    if not is_schema_another(error):
        raise error
    return await on_store_unavailable(request, error)
