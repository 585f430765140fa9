"""What can be asked for: strategies with their defaults, formats, names and limits."""

from __future__ import annotations

from typing import Any, get_args

from fastapi import APIRouter
from pydantic import BaseModel

from api.auth import KeyedRoute
from api.bodies import MAX_JSON_BYTES
from api.documents import StrategyDocument
from api.heads import DATASET_FORMATS, MODEL_FORMATS
from api.pages import Page
from api.schemas import ArtifactKind
from api.services import Here
from pruning.formats.names import ARCHITECTURE_NAMES
from pruning.recipe import MAX_ROUNDS, SCHEDULE_KINDS, BetweenRounds, Criterion, Recipe, Scope
from pruning.selection import Select
from pruning.strategies import STRATEGIES
from pruning.training_options import METRICS_OF_LOSS, LearningRate, Optimizer
from store.version import VERSION

router = APIRouter(tags=["catalogue"], route_class=KeyedRoute)


@router.get("/strategies")
async def list_strategies() -> Page[StrategyDocument]:
    """Named recipes. What a job's recipe leaves out is filled in from `defaults`."""
    return Page(
        data=[
            StrategyDocument(name=row.name, title=row.title, source=row.source, defaults=dict(row.defaults))
            for row in STRATEGIES.values()
        ]
    )


@router.get("/capabilities")
async def get_capabilities(services: Here) -> dict[str, Any]:
    """The values and limits of this service."""
    return {
        "object": "capabilities",
        "version": VERSION,
        "model_formats": MODEL_FORMATS,
        "architectures": ARCHITECTURE_NAMES,
        "dataset_formats": DATASET_FORMATS,
        "strategies": list(STRATEGIES),
        "criteria": _choices(Criterion, "name"),
        "granularities": _choices(Recipe, "granularity"),
        "scopes": _choices(Scope, "kind"),
        "schedules": SCHEDULE_KINDS,
        "between_rounds": _choices(BetweenRounds, "weights"),
        "optimizers": _choices(Optimizer, "name"),
        "learning_rates": _choices(LearningRate, "kind"),
        "losses": METRICS_OF_LOSS,
        "controls": get_args(get_args(Recipe.model_fields["controls"].annotation)[0]),
        "select": get_args(Select),
        "artifacts": get_args(ArtifactKind),
        "default_pool": services.settings.default_pool,
        "limits": {
            "upload_bytes": services.settings.max_upload_bytes,
            "json_bytes": MAX_JSON_BYTES,
            "rounds": MAX_ROUNDS,
        },
    }


def _choices(section: type[BaseModel], field: str) -> tuple[str, ...]:
    """The recipe's own types are the list."""
    return get_args(section.model_fields[field].annotation)
