"""What pydantic finds wrong, told in terms of the request: pointers into the body as the caller sent it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.responses import Response

from api.problems import Fault, Problem, problem_response

MAX_FAULTS = 50

_ABSENT = object()


async def on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found: dict[tuple[str, str | None], Fault] = {}
    for entry in error.errors():
        param = param_of(entry["loc"], error.body)
        found.setdefault((entry["type"], param), Fault(code=entry["type"], param=param, message=entry["msg"]))
    faults = list(found.values())
    first = faults[0]
    detail = first["message"] if len(faults) == 1 else f"{len(faults)} errors; the first: {first['message']}"
    return problem_response(
        request, Problem("invalid_request", detail, param=first["param"], faults=faults[:MAX_FAULTS])
    )


def param_of(location: Sequence[str | int], body: Any) -> str | None:
    """`("body", "recipe", "stop")` -> `/recipe/stop`; `("query", "limit")` -> `query:limit`."""
    where, *path = location
    if where == "body":
        return pointer(within(path, body))
    return f"{where}:{path[0]}" if path else None


def pointer(path: Sequence[str | int]) -> str:
    """RFC 6901."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def within(path: Sequence[str | int], body: Any) -> list[str | int]:
    """The path without pydantic's own steps, which name the branch of a union: they lead into no object or array.

    What a strategy filled in is absent from the body; such steps are fields, and stay.
    """
    steps: list[str | int] = []
    here = body
    for step in path:
        if step == "[key]":
            continue
        if isinstance(here, dict):
            here = here.get(step, _ABSENT)
        elif isinstance(here, list) and isinstance(step, int):
            here = here[step] if step < len(here) else _ABSENT
        elif here is not _ABSENT:
            continue
        steps.append(step)
    return steps
