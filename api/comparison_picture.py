"""What is to be seen in a comparison's plot, as plain numbers and words; `comparison_plotting.py` draws it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from api.comparison_results import Found
from api.picture import Line
from pruning.comparing import Row
from store.tables import Model

MAX_COLORED = 8
"""More colours than these nobody tells apart: of many recipes those that matter most have one."""

_LEAST_REMAINING = 1e-6
_LARGEST = 1e9
"""What is larger, such as a loss that ran away, would press all else flat."""


@dataclass(frozen=True)
class Spot:
    remaining: float
    """Fraction of all parameters, above 0."""
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    name: str
    control: str | None
    color: int | None
    """Index; None: grey, one of many."""
    spots: tuple[Spot, ...]
    """Of the numbered rounds, in their order."""
    final: Spot | None


@dataclass(frozen=True)
class Panorama:
    title: str
    subtitle: str
    metric: str
    series: tuple[Series, ...]
    lines: tuple[Line, ...]
    recommended: Spot | None
    is_met: bool


def panorama_of(session: Session, found: Found, subtitle: str) -> Panorama:
    whole, results = found.whole, found.findings
    model = session.get(Model, whole.comparison.model_id)
    colors = _colors(found)
    series = []
    for name in whole.names:
        rows = [row for row in results.rows if row.recipe == name]
        for control in dict.fromkeys(row.control for row in rows):
            if control is not None and colors.get(name) is None:
                continue
            own = [row for row in rows if row.control == control]
            spots = tuple(spot for row in own if row.number is not None and (spot := _spot(row)) is not None)
            final = next((_spot(row) for row in own if row.number is None), None)
            if spots or final:
                series.append(Series(name, control, colors.get(name), spots, final))
    best = results.recommended
    num_seeds = len(whole.comparison.seeds)
    bands = f", {num_seeds} seeds (line: mean, band: lowest to highest)" if num_seeds > 1 else ""
    return Panorama(
        title=f"{len(whole.names)} recipes{bands} · {model.name if model is not None else 'a deleted model'}",
        subtitle=subtitle,
        metric=results.goal.metric,
        series=tuple(series),
        lines=_lines(found),
        recommended=_spot(best.row) if best is not None else None,
        is_met=best is not None and best.is_met,
    )


def _colors(found: Found) -> dict[str, int | None]:
    """Every recipe's, where there are few; else the recommended one's and those of the front, in their order."""
    names = found.whole.names
    if len(names) > MAX_COLORED:
        best = found.findings.recommended
        chosen = [best.row.recipe] if best is not None else []
        chosen += [row.recipe for row in found.findings.rows if row.pareto]
        marked = set(list(dict.fromkeys(chosen))[:MAX_COLORED])
        names = [name for name in names if name in marked]
    return {name: index for index, name in enumerate(names)}


def _lines(found: Found) -> tuple[Line, ...]:
    results, seeds = found.findings, found.whole.comparison.seeds
    dense = [row.mean for row in results.rows if row.number == 0 and row.control is None]
    lines = []
    if dense:
        best = max(dense) if results.is_more_better else min(dense)
        lines.append(Line("dense", f"dense {best:.4g}", best))
    levels = [results.levels[seed] for seed in seeds if seed in results.levels]
    if levels:
        level = sum(levels) / len(levels)
        lines.append(Line("floor", f"goal {'≥' if results.is_more_better else '≤'} {level:.4g}", level))
    for gate in found.whole.comparison.gates:
        if gate["metric"] == results.goal.metric and abs(gate["value"]) < _LARGEST:
            lines.append(Line("gate", f"gate {gate['op']} {gate['value']:.4g}", gate["value"]))
    return tuple(line for line in lines if abs(line.value) < _LARGEST)


def _spot(row: Row) -> Spot | None:
    if max(abs(row.low), abs(row.high)) >= _LARGEST:
        return None
    return Spot(min(1.0, max(1 - row.removed, _LEAST_REMAINING)), row.mean, row.low, row.high)
