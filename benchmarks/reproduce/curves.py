"""What is stored of all seeds, as a table and as a plot."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.reproduce.shelf import Line, Shelf

Measure = Callable[[Line], float]
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, which the colour-blind tell apart."""

LOTTERY_CURVES = {
    "reset": "reset",
    "reinit": "random reinit of its masks",
    "continued_ticket": "continued: its ticket, trained alone",
    "continued": "continued: the network itself",
}


def accuracy(split: str) -> Measure:
    return lambda line: 100 * float(line["metrics"][split]["accuracy"])


def stop_step(line: Line) -> float:
    return float(line["early_stopping"]["step"])


def stop_validation(line: Line) -> float:
    return 100 * float(line["early_stopping"]["metrics"]["accuracy"])


def by_round(out: Path, curve: str) -> dict[int, list[Line]]:
    """round -> a line for each seed that has finished it."""
    rounds: dict[int, list[Line]] = {}
    for folder in sorted(out.glob("seed-*")):
        for line in Shelf(folder / curve).lines:
            rounds.setdefault(line["number"], []).append(line)
    return dict(sorted(rounds.items()))


def over_seeds(lines: Sequence[Line], measure: Measure, digits: int = 2) -> str:
    """mean [min, max]; one seed is one number."""
    values = [measure(line) for line in lines]
    if not values:
        return ""
    mean = f"{statistics.mean(values):,.{digits}f}"
    return mean if len(values) == 1 else f"{mean} [{min(values):,.{digits}f}, {max(values):,.{digits}f}]"


def lottery_table(out: Path) -> str:
    parts = []
    for curve, title in LOTTERY_CURVES.items():
        at_stop, rows = by_round(out, f"{curve}_at_stop"), []
        for number, lines in by_round(out, curve).items():
            cells = [
                str(number),
                f"{100 * lines[0]['remaining']:.1f}",
                str(len(lines)),
                over_seeds(lines, stop_step, 0),
                over_seeds(lines, stop_validation),
                over_seeds(at_stop.get(number, []), accuracy("test")),
                over_seeds(lines, accuracy("test")),
            ]
            if len(at_stop.get(number, [])) not in (0, len(lines)):
                cells[5] += f" ({len(at_stop[number])} of the seeds)"
            rows.append(cells)
        columns = ["round", "remaining %", "seeds", "early-stopping step", "validation % there", "test % there"]
        parts.append(f"**{title[0].upper()}{title[1:]}**\n\n{_table([*columns, 'test % at the end'], rows)}")
    return "\n".join(parts)


def unit_table(out: Path, curves: Iterable[str]) -> str:
    """Test accuracy at the end of each round."""
    found = {curve: by_round(out, curve) for curve in curves}
    found = {curve: rounds for curve, rounds in found.items() if rounds}
    seeds = {curve: max(len(lines) for lines in rounds.values()) for curve, rounds in found.items()}
    rows = []
    for number in sorted({number for rounds in found.values() for number in rounds}):
        lines = [rounds.get(number, []) for rounds in found.values()]
        remaining = {f"{100 * some[0]['remaining']:.0f}" for some in lines if some}
        cells = [
            over_seeds(some, accuracy("test")) + (f" ({len(some)} of the seeds)" if 0 < len(some) < of else "")
            for some, of in zip(lines, seeds.values(), strict=True)
        ]
        rows.append([str(number), " / ".join(sorted(remaining)), *cells])
    return _table(["round", "nodes %", *(f"{curve} ({n} seed{'s' * (n > 1)})" for curve, n in seeds.items())], rows)


def draw_lottery(out: Path, title: str) -> None:
    """Early-stopping step and test accuracy against the weights that remain, as in the paper's figures."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    steps, tests = figure.subplots(1, 2)
    for (curve, label), colour in zip(LOTTERY_CURVES.items(), COLOURS, strict=False):
        _line(steps, by_round(out, curve), stop_step, label, colour)
        if curve == "continued":
            _line(tests, by_round(out, curve), accuracy("test"), f"{label} (at the end)", colour)
        else:
            _line(tests, by_round(out, f"{curve}_at_stop"), accuracy("test"), label, colour)
    steps.set(ylabel="early-stopping step")
    tests.set(ylabel="test accuracy there, %")
    _finish(figure, [steps, tests], "weights remaining, %", 2, title, out)


def draw_units(out: Path, title: str, curves: Sequence[str]) -> None:
    scopes = sorted({curve.split(", ")[1] for curve in curves})
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = list(figure.subplots(1, len(scopes), sharey=True, squeeze=False)[0])
    for curve in curves:
        criterion, scope = curve.split(", ")
        colour = {"minimum": COLOURS[0], "maximum": COLOURS[1], "random": COLOURS[2]}[criterion]
        _line(panels[scopes.index(scope)], by_round(out, curve), accuracy("test"), curve, colour)
    panels[0].set(ylabel="test accuracy at the end, %")
    _finish(figure, panels, "nodes remaining, %", 10, title, out)


def _line(axes: Axes, rounds: dict[int, list[Line]], measure: Measure, label: str, colour: str) -> None:
    if not rounds:
        return
    x = [100 * lines[0]["remaining"] for lines in rounds.values()]
    values = [[measure(line) for line in lines] for lines in rounds.values()]
    axes.plot(x, [statistics.mean(v) for v in values], color=colour, marker="o", markersize=3, label=label)
    axes.fill_between(x, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.15, linewidth=0)


def _finish(figure: Figure, panels: Sequence[Axes], xlabel: str, least: int, title: str, out: Path) -> None:
    ticks = [tick for tick in (100, 50, 20, 10, 5, 2) if tick >= least]
    for axes in panels:
        axes.set_xscale("log")
        axes.invert_xaxis()
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel(xlabel)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8, framealpha=0.5)
    figure.suptitle(f"{title}; mean, least and greatest of the seeds", fontsize=10)
    figure.savefig(out / "plot.png", dpi=110)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
