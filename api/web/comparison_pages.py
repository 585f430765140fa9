"""The dashboard's pages of comparisons: all of them, and what one has found so far."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.auth import ProjectId
from api.comparison_documents import comparison_documents
from api.comparison_filters import ComparisonFilters
from api.comparison_results import compared_rows, find, recommendation_document
from api.comparison_summary import goal_said
from api.pages import After, RowId, found
from api.services import Here
from api.web.pages import PageRoute, names_of
from api.web.rendering import page
from store import comparisons, listing
from store.comparisons import Whole
from store.tables import Comparison, Dataset, JobStatus, Model
from store.transitions import RETRY, TRANSITIONS, Trigger

router = APIRouter(route_class=PageRoute, include_in_schema=False)

_VERBS = (Trigger.PAUSE, Trigger.RESUME, Trigger.CANCEL)


@router.get("/comparisons")
def comparison_list(
    request: Request, services: Here, project_id: ProjectId, filters: ComparisonFilters, after: After = None
) -> Response:
    with services.database.reading() as session:
        rows, has_more = listing.page(session, Comparison, project_id, after, 50, *filters)
        shown = comparison_documents(session, rows)
        names = names_of(session, Model, {row.model_id for row in rows})
        names |= names_of(session, Dataset, {row.dataset_id for row in rows})
    asked = {name: value for name, value in request.query_params.items() if name != "after"}
    older = urlencode({**asked, "after": rows[-1].id}) if has_more else None
    return page(request, "comparisons.html", comparisons=shown, names=names, asked=asked, older=older)


@router.get("/comparisons/{comparison_id}")
def comparison_page(request: Request, services: Here, project_id: ProjectId, comparison_id: RowId) -> Response:
    with services.database.reading() as session:
        row = found(session, Comparison, project_id, comparison_id)
        [whole] = comparisons.read(session, [row])
        [comparison] = comparison_documents(session, [row])
        results = find(session, whole)
        best = recommendation_document(session, results)
        names = names_of(session, Model, {row.model_id}) | names_of(session, Dataset, {row.dataset_id})
    rows = compared_rows(results)
    groups = [(*key, list(own)) for key, own in groupby(rows, key=lambda each: (each.recipe, each.control))]
    return page(
        request,
        "comparison.html",
        comparison=comparison,
        goal=goal_said(results),
        groups=groups,
        front=sorted((each for each in rows if each.control is None), key=lambda each: each.removed),
        best=best,
        names=names,
        metric=results.findings.goal.metric,
        drawn=_drawn(whole),
        verbs=verbs_of([JobStatus(job.status) for job in whole.parts.values()]),
    )


def verbs_of(statuses: Sequence[JobStatus]) -> list[str]:
    """The buttons: what at least one of its jobs allows."""
    verbs = [verb.value for verb in _VERBS if any(status in TRANSITIONS[verb] for status in statuses)]
    again = any(status in (JobStatus.FAILED, JobStatus.CANCELED) for status in statuses)
    return [*verbs, RETRY] if again else verbs


def _drawn(whole: Whole) -> str:
    """Changes where the picture does, and not with each step of a job: so many rounds of these jobs."""
    num_rounds = sum(job.last_position + 1 for job in whole.parts.values())
    return f"{whole.comparison.version}-{num_rounds}-{whole.status}"
