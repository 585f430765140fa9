"""A job before it is made: its columns, and what `validate_only` shows of them."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from api.admission import Admitted
from api.documents import PlanDocument, PlannedRoundDocument
from api.estimates import estimate
from api.heads import PROGRAM
from api.schemas import REDUCED, JobRequest
from store import traces
from store.settings import Settings
from store.tables import Model


def columns(given: JobRequest, admitted: Admitted, settings: Settings) -> dict[str, Any]:
    retention_seconds = settings.retention_days and settings.retention_days * 24 * 3600
    return {
        "model_id": admitted.model.id,
        "dataset_id": admitted.dataset.id,
        "recipe": given.recipe.to_json(),
        "gates": [gate.model_dump() for gate in given.gates],
        "select": given.select,
        "artifacts": list(dict.fromkeys(given.artifacts or _default_artifacts(given, admitted.model))),
        "pool": given.pool or settings.default_pool,
        "priority": given.priority,
        "max_failures": given.max_failures,
        "queue_timeout_seconds": given.queue_timeout_seconds,
        "deadline_seconds": given.deadline_seconds,
        "keep_rounds": given.keep_rounds,
        "expires_in_seconds": given.expires_in_seconds or retention_seconds,
        "options": {"cache": given.cache, "metadata": given.metadata},
        "planned_rounds": admitted.planned[-1].number,
        "traceparent": traces.current(),
    }


def _default_artifacts(given: JobRequest, model: Model) -> list[str]:
    """A network that came as a program goes back as one; what is cut out of a named one has no other form."""
    kinds = ["model", "masks", "ticket"] + ["program"] * (model.format == PROGRAM)
    return kinds + list(REDUCED) * (given.recipe.materialize is not None) + ["card"]


def plan_document(session: Session, given: JobRequest, admitted: Admitted, settings: Settings) -> PlanDocument:
    job = columns(given, admitted, settings)
    shown = ("recipe", "gates", "select", "artifacts", "pool", "priority", "max_failures", "queue_timeout_seconds")
    more = ("deadline_seconds", "keep_rounds", "expires_in_seconds")
    return PlanDocument(
        model=admitted.model.id,
        dataset=admitted.dataset.id,
        cache=given.cache,
        metadata=given.metadata,
        rounds=[
            PlannedRoundDocument(
                number=planned.number, sparsity=planned.sparsity, num_remaining=sum(planned.remaining.values())
            )
            for planned in admitted.planned
        ],
        estimate=estimate(session, given.recipe, admitted, job["pool"], job["artifacts"]),
        **{name: job[name] for name in (*shown, *more)},
    )
