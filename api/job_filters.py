"""Which jobs a list shows: the parameters of `GET /v1/jobs`, as conditions."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Request
from pydantic import AwareDatetime
from sqlalchemy import ColumnElement

from api.auth import ProjectId
from api.problems import Problem
from api.schemas import Reference
from store import labels
from store.tables import Job, JobStatus

Conclusion = Literal["passed", "gate_failed", "error", "canceled", "timed_out"]
Several = Query(description="may be given several times")

SHOWN_SECONDS = 1e-6
"""The resolution in which a job shows when it was made: the time of a job, given back, leaves that job out."""

_LABEL = re.compile(r"metadata\[(.*)\]", re.DOTALL)
METADATA_PARAMETER: dict[str, Any] = {
    "parameters": [
        {
            "name": "metadata",
            "in": "query",
            "style": "deepObject",
            "explode": True,
            "description": "`metadata[key]=value`: jobs that bear all of these labels, exactly",
            "schema": {
                "type": "object",
                "propertyNames": {"minLength": 1, "maxLength": 64, "pattern": r"^[^\x00]+$"},
                "additionalProperties": {"type": "string", "maxLength": 512, "pattern": r"^[^\x00]*$"},
                "maxProperties": 16,
            },
        }
    ]
}
"""For the OpenAPI document: its parameters have a name each, and these have any."""


async def _filters(
    request: Request,
    project_id: ProjectId,
    status: Annotated[list[JobStatus] | None, Several] = None,
    conclusion: Annotated[list[Conclusion] | None, Several] = None,
    model: Annotated[Reference | None, Query()] = None,
    dataset: Annotated[Reference | None, Query()] = None,
    created_after: Annotated[AwareDatetime | None, Query(description="RFC 3339, such as 2026-01-31T12:00:00Z")] = None,
    created_before: Annotated[AwareDatetime | None, Query(description="RFC 3339")] = None,
) -> list[ColumnElement[bool]]:
    conditions = [labels.has(project_id, key, value) for key, value in labels_asked_for(request)]
    if status:
        conditions.append(Job.status.in_(status))
    if conclusion:
        conditions.append(Job.conclusion.in_(conclusion))
    if model:
        conditions.append(Job.model_id == model)
    if dataset:
        conditions.append(Job.dataset_id == dataset)
    if created_after:
        conditions.append(Job.created_at > created_after.timestamp() + SHOWN_SECONDS)
    if created_before:
        conditions.append(Job.created_at < created_before.timestamp() - SHOWN_SECONDS)
    return conditions


JobFilters = Annotated[list[ColumnElement[bool]], Depends(_filters)]
"""A parameter of a route."""


def labels_asked_for(request: Request) -> list[tuple[str, str]]:
    found = []
    for name, value in request.query_params.multi_items():
        if not (named := _LABEL.fullmatch(name)):
            continue
        key = named[1]
        # What no label can be would find nothing; said, because it is a slip. And PostgreSQL takes no NUL.
        if not 1 <= len(key) <= 64 or len(value) > 512 or "\0" in key + value:
            detail = "a label has a key of 1 to 64 characters and a value of up to 512, none of them NUL"
            raise Problem("invalid_request", detail, param=f"query:{name[:80]}")
        found.append((key, value))
    if len(found) > labels.MAX_LABELS:
        detail = f"a job has up to {labels.MAX_LABELS} labels; ask for no more"
        raise Problem("invalid_request", detail, param="query:metadata")
    return found
