"""The OpenAPI document: FastAPI's own, with the table of problems, and a recipe's required fields as they are."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api import examples, messages
from api.idempotency import HEADER, REPLAYED
from api.problems import PROBLEMS, ProblemDocument, documented

_REF = "#/components/schemas/{model}"
_FILLED_IN = (
    "Recipe",
    "Criterion",
    "Scope",
    "FractionSchedule",
    "OneShotSchedule",
    "GeometricSchedule",
    "PolynomialSchedule",
    "BetweenRounds",
    "Stop",
    "Training",
    "Optimizer",
)

_ABOUT = """Iterative pruning of neural networks: upload a model and a dataset, post a job, read its rounds.

Press **Authorize** and paste the API key that was printed at the first start. `x-scope` of an operation is the scope
that a key needs for it; `admin` implies the others.

### Problems
Every error is `application/problem+json` (RFC 9457). `param` is a JSON pointer into the body (the empty string is the
whole body), or `query:name`, `path:name`, `header:name`; `errors` lists every place that is wrong, and there `code` is
the check that failed. A body that refers to what does not exist is answered with `not_found`, too, but with status 422.

| code | status | retryable | meaning |
|---|---|---|---|
"""


def description() -> str:
    rows = (
        f"| `{code}` | {kind.status} | {'yes' if kind.retryable else 'no'} | {kind.title} |"
        for code, kind in PROBLEMS.items()
    )
    return _ABOUT + "\n".join(rows)


def openapi_of(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
        )
        schemas = document["components"]["schemas"]
        problem = ProblemDocument.model_json_schema(ref_template=_REF)
        schemas |= problem.pop("$defs") | {"Problem": problem}
        for name in _FILLED_IN:
            if schemas[name].pop("required", None):
                about = schemas[name].get("description", "")
                schemas[name]["description"] = f"{about}\n\nThe strategy fills in what is left out.".strip()
        document["webhooks"], told = messages.webhooks()
        schemas |= told
        _close_maps(schemas)
        _document_keys(document)
        for path, item in document["paths"].items():
            for method, operation in item.items():
                for parameter in operation.get("parameters", []):
                    _without_null(parameter["schema"])
                    if parameter["name"] in _NEEDED.get((method, path), ()):
                        parameter["required"] = True
        examples.show(document)
        app.openapi_schema = document
    return app.openapi_schema


_NEEDED = {
    ("post", "/v1/uploads"): ("upload-complete",),
    ("patch", "/v1/uploads/{upload_id}"): ("upload-complete", "upload-offset"),
}
"""Fields that count as absent where they hold no such value, so that the route itself asks for them."""


def _without_null(schema: dict[str, Any]) -> None:
    """Python's None is a parameter that is left out: none can be sent as null."""
    branches = [branch for branch in schema.get("anyOf", []) if branch != {"type": "null"}]
    if len(branches) == 1:
        del schema["anyOf"]
        schema |= {**branches[0], **schema}


def _close_maps(schema: Any) -> None:
    """pydantic says how keys of a mapping look, and not that there are no others."""
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _close_maps(part)
    if isinstance(schema, dict) and "patternProperties" in schema:
        schema.setdefault("additionalProperties", False)


_KEY_PARAMETER = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "1 to 255 printable ASCII characters, such as a UUID: a request that is sent again with its key is "
    "done once and answered the same, for 24 hours",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}
_REPLAYED_HEADER = {"description": "true: what was answered to this key before", "schema": {"type": "string"}}


def _document_keys(document: dict[str, Any]) -> None:
    """`api.idempotency` is around every route of a project, so no route says it for itself."""
    for path, item in document["paths"].items():
        operation = item.get("post")
        if operation is None or not path.startswith("/v1/") or "security" not in operation:
            continue
        operation.setdefault("parameters", []).append(_KEY_PARAMETER)
        answers = operation["responses"]
        for status, answer in answers.items():
            if status.startswith("2"):
                answer.setdefault("headers", {})[REPLAYED] = _REPLAYED_HEADER
        for status, told in documented("idempotency_in_progress", "idempotency_mismatch").items():
            if str(status) in answers:
                answers[str(status)]["description"] += "\n\n" + told["description"]
            else:
                answers[str(status)] = told
