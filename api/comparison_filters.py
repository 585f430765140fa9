"""Which comparisons a list shows: the parameters of `GET /v1/comparisons`, as conditions."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Request
from pydantic import AwareDatetime
from sqlalchemy import ColumnElement, select

from api.auth import ProjectId
from api.job_filters import SHOWN_SECONDS, labels_asked_for
from api.schemas import Reference
from store import comparisons, labels
from store.tables import Comparison, Job


async def _filters(
    request: Request,
    project_id: ProjectId,
    done: Annotated[bool | None, Query(description="all jobs have ended, or not all")] = None,
    model: Annotated[Reference | None, Query()] = None,
    dataset: Annotated[Reference | None, Query()] = None,
    created_after: Annotated[AwareDatetime | None, Query(description="RFC 3339, such as 2026-01-31T12:00:00Z")] = None,
    created_before: Annotated[AwareDatetime | None, Query(description="RFC 3339")] = None,
) -> list[ColumnElement[bool]]:
    """A comparison bears the labels that any of its jobs bears."""
    conditions: list[ColumnElement[bool]] = [
        Comparison.id.in_(select(Job.comparison_id).where(labels.has(project_id, key, value)))
        for key, value in labels_asked_for(request)
    ]
    if done is not None:
        conditions.append(comparisons.is_done() if done else ~comparisons.is_done())
    if model:
        conditions.append(Comparison.model_id == model)
    if dataset:
        conditions.append(Comparison.dataset_id == dataset)
    if created_after:
        conditions.append(Comparison.created_at > created_after.timestamp() + SHOWN_SECONDS)
    if created_before:
        conditions.append(Comparison.created_at < created_before.timestamp() - SHOWN_SECONDS)
    return conditions


ComparisonFilters = Annotated[list[ColumnElement[bool]], Depends(_filters)]
"""A parameter of a route."""
