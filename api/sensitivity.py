"""A sensitivity scan as a table. It comes from a process that is not trusted: what is not as promised is left out."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field, FiniteFloat, TypeAdapter, ValidationError
from sqlalchemy.orm import Session

from api.problems import Problem
from store import jobs
from store.tables import Job

MAX_LAYERS, MAX_POINTS = 10_000, 20


class SensitivityPoint(BaseModel):
    sparsity: float = Field(ge=0, le=1, description="fraction removed of this layer alone")
    metrics: dict[str, FiniteFloat] = Field(description="of validation, without any further training")


class LayerSensitivity(BaseModel):
    layer: str = Field(max_length=1000)
    size: int = Field(ge=0, le=2**53, description="weights, or units where those are pruned")
    points: list[SensitivityPoint] = Field(max_length=MAX_POINTS)


class SensitivityDocument(BaseModel):
    object: Literal["sensitivity"] = "sensitivity"
    job: str
    metric: Literal["accuracy", "loss"] = Field(description="what the picture and the CSV show of `metrics`")
    dense: dict[str, float] = Field(description="the dense network's own, of validation")
    data: list[LayerSensitivity] = Field(description="in the network's order")


_LAYERS: TypeAdapter[list[LayerSensitivity]] = TypeAdapter(list[LayerSensitivity])


def sensitivity_of(session: Session, job: Job) -> SensitivityDocument:
    """
    Raises:
        Problem: not_ready while round 0 is not stored, no_sensitivity where the recipe does not ask for it.
    """
    if job.recipe.get("sensitivity") is None:
        raise Problem("no_sensitivity", f"the recipe of {job.id} asks for none; post one with sensitivity: true")
    rounds = jobs.stored_rounds(session, job.id)
    if not rounds:
        raise Problem("not_measured_yet", f"round 0 of {job.id} is not stored yet; ask again when it is")
    report = rounds[0].report
    try:
        layers = _LAYERS.validate_python(report.get("sensitivity") or [])[:MAX_LAYERS]
    except ValidationError:
        layers = []
    dense = _numbers(report["metrics"].get("validation"))
    return SensitivityDocument(
        job=job.id, metric="accuracy" if "accuracy" in dense else "loss", dense=dense, data=layers
    )


def as_csv(document: SensitivityDocument) -> str:
    """A row for each layer and sparsity: layer, size, sparsity, and the metric (empty where it is none)."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(("layer", "size", "sparsity", document.metric))
    for row in document.data:
        writer.writerows((row.layer, row.size, p.sparsity, p.metrics.get(document.metric)) for p in row.points)
    return file.getvalue()


def most_sensitive(document: SensitivityDocument, count: int) -> Sequence[LayerSensitivity]:
    """Those that lose most at their last sparsity; in the network's order."""

    def kept(row: LayerSensitivity) -> float:
        value = row.points[-1].metrics.get(document.metric, math.nan) if row.points else math.nan
        return -value if document.metric == "loss" else value

    chosen = {id(row) for row in sorted(document.data, key=lambda row: (math.isnan(kept(row)), kept(row)))[:count]}
    return [row for row in document.data if id(row) in chosen]


def _numbers(values: Any) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in (values or {}).items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
