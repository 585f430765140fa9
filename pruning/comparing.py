"""Several recipes and seeds side by side: one row per recipe and round, over seeds, and which rows no other beats.

What is compared is `removed`, the fraction of all parameters that masks take away: a recipe of units and one of weights
mean different things by their `sparsity`, and the same by this. Only trained entries are compared, by the validation
split; the test split stands beside it and decides nothing. Torch-free.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

LOWER_IS_BETTER = frozenset({"loss", "mae", "perplexity"})
_LARGEST = 1e100
"""Far beyond any metric, and small enough that means and squares of such stay finite."""

MeasuredRound = tuple[int, int | None, float, Mapping[str, Any]]
"""A stored round: position, number, sparsity, report."""


@dataclass(frozen=True)
class Entry:
    """One trained entry of one job, or a control that was trained beside it."""

    recipe: str
    seed: int
    job: str
    position: int
    number: int | None
    """None: the final entry."""
    sparsity: float
    """Fraction of what the recipe prunes, weights or units."""
    removed: float
    """Fraction of all parameters."""
    validation: Mapping[str, float]
    test: Mapping[str, float]
    stop_step: int | None
    """Where the validation loss was least: when early stopping would have stopped."""
    steps: int | None
    seconds: float | None
    """Of this entry alone, its controls aside."""
    seconds_so_far: float | None
    """Of all entries of its job up to this one."""
    control: str | None = None


@dataclass(frozen=True)
class Row:
    """A recipe's round over its seeds; means where nothing else is said, and of a metric's own seeds alone."""

    recipe: str
    control: str | None
    number: int | None
    num_seeds: int
    sparsity: float
    removed: float
    mean: float
    std: float | None
    """Sample standard deviation (n - 1); None for one seed."""
    low: float
    high: float
    test_mean: float | None
    test_std: float | None
    stop_step: float | None
    steps: float | None
    seconds: float | None
    seconds_so_far: float | None
    pareto: bool = False
    """No other row of a recipe is as small and better, or the reverse. A control is on no front."""


def entries_of(recipe: str, seed: int, job: str, rounds: Iterable[MeasuredRound]) -> list[Entry]:
    """The trained entries of a job, controls behind their rounds, from its rounds in order.

    A report comes from a process that is not trusted: a number is taken only where there is one.
    """
    entries: list[Entry] = []
    so_far = 0.0
    for position, number, sparsity, report in rounds:
        phases = _mapping(report.get("seconds"))
        seconds = _sum(_number(phases.get(name)) for name in ("prune", "train", "evaluate"))
        so_far += seconds or 0.0
        splits = _mapping(report.get("metrics"))
        entry = Entry(
            recipe=recipe,
            seed=seed,
            job=job,
            position=position,
            number=number,
            sparsity=sparsity,
            removed=_removed(report, sparsity),
            validation=_metrics(splits.get("validation")),
            test=_metrics(splits.get("test")),
            stop_step=_count(_mapping(report.get("early_stopping")).get("step")),
            steps=_count(report.get("steps")),
            seconds=seconds,
            seconds_so_far=so_far,
        )
        entries.append(entry)
        for name, told in _mapping(report.get("controls")).items():
            control = _mapping(told)
            measured = _mapping(control.get("metrics"))
            entries.append(
                replace(
                    entry,
                    control=str(name),
                    validation=_metrics(measured.get("validation")),
                    test=_metrics(measured.get("test")),
                    stop_step=_count(_mapping(control.get("early_stopping")).get("step")),
                    steps=_count(control.get("steps")),
                    seconds=_number(phases.get(name)),
                    seconds_so_far=None,
                )
            )
    return [entry for entry in entries if entry.validation]


def table(entries: Sequence[Entry], metric: str, recipes: Sequence[str]) -> list[Row]:
    """In the order of `recipes`, a recipe's own rounds before its controls'; the final entry behind the numbered."""
    groups: dict[tuple[str, str | None, int | None], list[Entry]] = {}
    for entry in entries:
        if metric in entry.validation:
            groups.setdefault((entry.recipe, entry.control, entry.number), []).append(entry)
    order = {name: index for index, name in enumerate(recipes)}
    rows = [_row(group, metric) for group in groups.values()]
    rows.sort(key=lambda row: (order[row.recipe], row.control or "", math.inf if row.number is None else row.number))
    return _with_front(rows, metric)


def oriented(metric: str, value: float) -> float:
    """More is better."""
    return -value if metric in LOWER_IS_BETTER else value


def _row(group: Sequence[Entry], metric: str) -> Row:
    values = [entry.validation[metric] for entry in group]
    tested = [entry.test[metric] for entry in group if metric in entry.test]
    first = group[0]
    return Row(
        recipe=first.recipe,
        control=first.control,
        number=first.number,
        num_seeds=len(group),
        sparsity=statistics.fmean(entry.sparsity for entry in group),
        removed=statistics.fmean(entry.removed for entry in group),
        mean=statistics.fmean(values),
        std=_std(values),
        low=min(values),
        high=max(values),
        test_mean=_mean(tested),
        test_std=_std(tested),
        stop_step=_mean([entry.stop_step for entry in group if entry.stop_step is not None]),
        steps=_mean([entry.steps for entry in group if entry.steps is not None]),
        seconds=_mean([entry.seconds for entry in group if entry.seconds is not None]),
        seconds_so_far=_mean([entry.seconds_so_far for entry in group if entry.seconds_so_far is not None]),
    )


def _with_front(rows: Sequence[Row], metric: str) -> list[Row]:
    points = [(row.removed, oriented(metric, row.mean)) for row in rows if row.control is None]
    return [
        replace(
            row,
            pareto=row.control is None
            and not any(_beats(other, (row.removed, oriented(metric, row.mean))) for other in points),
        )
        for row in rows
    ]


def _beats(other: tuple[float, float], point: tuple[float, float]) -> bool:
    return other[0] >= point[0] and other[1] >= point[1] and other != point


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _std(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if known else None


def _removed(report: Mapping[str, Any], sparsity: float) -> float:
    """1 - 1 / (all parameters over those that no mask takes away)."""
    ratio = _number(report.get("compression_ratio"))
    return 1 - 1 / ratio if ratio is not None and ratio >= 1 else sparsity


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _metrics(value: Any) -> dict[str, float]:
    numbers = {str(name): _number(given) for name, given in _mapping(value).items()}
    return {name: number for name, number in numbers.items() if number is not None}


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_LARGEST <= value <= _LARGEST:
        return None
    return float(value)


def _count(value: Any) -> int | None:
    """None where no float reaches it: means are taken."""
    return value if isinstance(value, int) and _number(value) is not None else None
