"""What is to be seen in a job's plot, as plain numbers and words; `plotting.py` draws it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sqlalchemy.orm import Session

from api.documents import EntryName
from api.measured import MeasuredRound, measured_rounds, metric_of
from store.tables import Job, Model

Format = Literal["svg", "png"]
Theme = Literal["light", "dark"]

_LEAST_REMAINING = 1e-6
_LARGEST = 1e9
"""What is larger, such as a loss that ran away, would press all else flat."""


@dataclass(frozen=True)
class Point:
    round: EntryName
    remaining: float
    """Fraction, above 0."""
    validation: float
    test: float | None
    on_front: bool
    selected: bool


@dataclass(frozen=True)
class Line:
    """A level that the metric is held against: `accuracy floor > 0.95`."""

    kind: Literal["dense", "floor", "gate"]
    words: str
    value: float


@dataclass(frozen=True)
class Picture:
    title: str
    metric: str
    unit: Literal["weights", "units"]
    points: tuple[Point, ...]
    """In order of the rounds; the final entry last."""
    lines: tuple[Line, ...]


def picture_of(session: Session, job: Job) -> Picture:
    rounds = measured_rounds(session, job)
    metric = metric_of(rounds)
    points = tuple(point for row in rounds if (point := _point(row, metric)) is not None)
    return Picture(
        title=f"{job.recipe['strategy']} · {session.get_one(Model, job.model_id).name}",
        metric=metric,
        unit="units" if job.recipe.get("granularity") == "unit" else "weights",
        points=points,
        lines=_lines(job, metric, points),
    )


def _point(row: MeasuredRound, metric: str) -> Point | None:
    validation, test = (_drawable(getattr(row, f"{split}_{metric}")) for split in ("validation", "test"))
    if validation is None:
        return None
    remaining = min(1.0, max(1 - row.sparsity, _LEAST_REMAINING))
    return Point(row.round, remaining, validation, test, row.pareto, row.selected)


def _lines(job: Job, metric: str, points: tuple[Point, ...]) -> tuple[Line, ...]:
    lines = []
    dense = points[0].validation if points and points[0].round == 0 else None
    if dense is not None:
        lines.append(Line("dense", f"dense {dense:.4g}", dense))
    floor = job.recipe.get("stop", {}).get("accuracy_floor")
    if floor and metric == "accuracy":
        if floor.get("value") is not None:
            lines.append(Line("floor", f"floor > {floor['value']:.4g}", floor["value"]))
        elif dense is not None:
            value = floor["factor"] * dense
            lines.append(Line("floor", f"floor > {value:.4g}", value))
    for gate in job.gates:
        value = gate["value"]
        if gate["metric"] == f"{metric}_ratio" and dense is not None:
            value *= dense
        elif gate["metric"] != metric:
            continue
        if _drawable(value) is not None:
            lines.append(Line("gate", f"gate {gate['op']} {value:.4g}", value))
    return tuple(lines)


def _drawable(value: float | None) -> float | None:
    return value if value is not None and abs(value) < _LARGEST else None
