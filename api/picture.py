"""What is to be seen in a job's plots, as plain numbers and words; `plotting.py` draws them.

A round's report comes from a process that is not trusted, so a number is taken only where there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy.orm import Session

from api.documents import EntryName
from api.job_documents import entry_name
from api.measured import MeasuredRound, measured_rounds, metric_of
from api.reported import mapping_in, number_in
from store import jobs
from store.tables import Job, Model, Round

Format = Literal["svg", "png"]
Theme = Literal["light", "dark"]
Kind = Literal["accuracy", "loss", "steps", "layers"]
Metric = Literal["accuracy", "loss"]

SPLITS = ("train", "validation", "test")
_LEAST_REMAINING = 1e-6
_LARGEST = 1e9
"""What is larger, such as a loss that ran away, would press all else flat."""
_MOST_STEPS = 2**53
_MAX_LAYERS, _MAX_COLUMNS = 60, 60


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
    """A metric against what is left, round by round."""

    title: str
    metric: Metric
    unit: Literal["weights", "units"]
    points: tuple[Point, ...]
    """In order of the rounds; the final entry last."""
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Series:
    split: Literal["train", "validation", "test"]
    steps: tuple[int, ...]
    """Of all rounds so far, at the round's end."""
    values: tuple[float, ...]
    best: tuple[tuple[int, float], ...]
    """(step, value) of the evaluation with the least validation loss within each round, where it is not its end."""


@dataclass(frozen=True)
class Course:
    """Metrics against the training steps of all rounds together."""

    title: str
    panels: tuple[tuple[Metric, tuple[Series, ...], tuple[Line, ...]], ...]
    bounds: tuple[int, ...]
    """Steps at which a round ended."""


@dataclass(frozen=True)
class Layers:
    """The fraction that is kept of each layer, in each round."""

    title: str
    names: tuple[str, ...]
    rounds: tuple[EntryName, ...]
    densities: tuple[tuple[float | None, ...], ...]
    """[layer][round]."""
    selected: int | None
    """Column."""
    left_out: int
    """Layers that there is no room for."""


def picture_of(session: Session, job: Job, kind: Kind | None = None) -> Picture | Course | Layers:
    """`kind` None: the metric that the job is judged by."""
    title = f"{job.recipe['strategy'] or 'own recipe'} · {session.get_one(Model, job.model_id).name}"
    if kind == "layers":
        return _layers(title, job, jobs.stored_rounds(session, job.id))
    if kind == "steps":
        return _course(title, job, jobs.stored_rounds(session, job.id))
    rounds = measured_rounds(session, job)
    metric = kind or metric_of(rounds)
    points = tuple(point for row in rounds if (point := _point(row, metric)) is not None)
    return Picture(
        title=title,
        metric=metric,
        unit="units" if job.recipe.get("granularity") == "unit" else "weights",
        points=points,
        lines=_lines(job, metric, _dense(points)),
    )


def _point(row: MeasuredRound, metric: str) -> Point | None:
    validation, test = (_drawable(getattr(row, f"{split}_{metric}")) for split in ("validation", "test"))
    if validation is None:
        return None
    remaining = min(1.0, max(1 - row.sparsity, _LEAST_REMAINING))
    return Point(row.round, remaining, validation, test, row.pareto, row.selected)


def _dense(points: tuple[Point, ...]) -> float | None:
    return points[0].validation if points and points[0].round == 0 else None


def _lines(job: Job, metric: str, dense: float | None) -> tuple[Line, ...]:
    lines = []
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


def _course(title: str, job: Job, rounds: Sequence[Round]) -> Course:
    ends, total = [], 0
    for row in rounds:
        total += _steps(row)
        ends.append(total)
    metrics: tuple[Metric, Metric] = ("accuracy", "loss")
    panels = []
    for metric in metrics:
        series = [_series(rounds, ends, split, metric) for split in SPLITS]
        drawn = tuple(each for each in series if each.steps)
        if drawn:
            dense = number_in(rounds[0].report["metrics"].get("validation"), metric)
            panels.append((metric, drawn, _lines(job, metric, _drawable(dense))))
    return Course(title, tuple(panels), tuple(ends))


def _series(rounds: Sequence[Round], ends: list[int], split: Any, metric: str) -> Series:
    steps, values, best = [], [], []
    for row, end in zip(rounds, ends, strict=True):
        value = _drawable(number_in(row.report["metrics"].get(split), metric))
        if value is None:
            continue
        steps.append(end)
        values.append(value)
        stopping = mapping_in(row.report, "early_stopping")
        at, least = number_in(stopping, "step"), number_in(mapping_in(mapping_in(stopping, "metrics"), split), metric)
        length = _steps(row)
        if at is not None and 0 <= at < length and (least := _drawable(least)) is not None:
            best.append((int(end - length + at), least))
    return Series(split, tuple(steps), tuple(values), tuple(best))


def _steps(row: Round) -> int:
    """0 where nobody can have trained so many."""
    steps = number_in(row.report, "steps")
    return int(steps) if steps is not None and 0 <= steps < _MOST_STEPS else 0


def _layers(title: str, job: Job, rounds: Sequence[Round]) -> Layers:
    table: dict[str, dict[int, float]] = {}
    for row in rounds:
        layers = row.report.get("layers")
        for layer in layers if isinstance(layers, list) else []:
            density = number_in(layer, "density")
            if density is not None:
                table.setdefault(str(layer.get("name")), {})[row.position] = min(1.0, max(0.0, density))
    columns = _thinned([row for row in rounds if any(row.position in cells for cells in table.values())])
    names = list(table)[:_MAX_LAYERS]
    return Layers(
        title=title,
        names=tuple(names),
        rounds=tuple(entry_name(row.number) for row in columns),
        densities=tuple(tuple(table[name].get(row.position) for row in columns) for name in names),
        selected=next((at for at, row in enumerate(columns) if row.position == job.selected_position), None),
        left_out=len(table) - len(names),
    )


def _thinned(rounds: list[Round]) -> list[Round]:
    """Evenly, the last one kept: a picture has room for so many."""
    stride = -(-len(rounds) // _MAX_COLUMNS)
    return rounds[::-1][:: stride or 1][::-1]


def _drawable(value: float | None) -> float | None:
    return value if value is not None and abs(value) < _LARGEST else None
