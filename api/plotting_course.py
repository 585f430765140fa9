"""Accuracy and loss against the training steps of all rounds: what a job did with its time."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from api.look import MARKS, STYLES, dress
from api.picture import Course, Line, Series

_MOST_BOUNDS = 60
"""More lines than that are a grey wall."""


def draw_course(figure: Figure, course: Course, colors: dict[str, str]) -> None:
    if not course.panels:
        axes = figure.add_subplot()
        dress(axes, colors, course.title)
        axes.set_axis_off()
        figure.text(0.5, 0.45, "no trained round yet", ha="center", color=colors["text"])
        return
    panels = figure.subplots(len(course.panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (metric, series, lines) in zip(panels, course.panels, strict=True):
        first = axes is panels[0]
        dress(axes, colors, *((course.title,) if first else ()))
        axes.set_ylabel(metric, color=colors["text"])
        axes.grid(visible=False, axis="x")
        for bound in course.bounds if len(course.bounds) <= _MOST_BOUNDS else ():
            axes.axvline(bound, color=colors["grid"], linewidth=0.8, zorder=0)
        _draw_lines(axes, lines, colors)
        for each in series:
            _draw_series(axes, each, colors)
    panels[-1].set_xlabel("training steps of all rounds (a line: a round's end)", color=colors["text"])
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    named: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    figure.legend(
        list(named.values()),
        [*map(str, named)],
        loc="outside lower center", ncols=4, frameon=False, fontsize=11,
        labelcolor=colors["text"],
    )  # fmt: skip


def _draw_lines(axes: Axes, lines: tuple[Line, ...], colors: dict[str, str]) -> None:
    for line in lines:
        axes.axhline(line.value, color=colors[line.kind], linestyle=STYLES[line.kind], linewidth=1.4, label=line.kind)


def _draw_series(axes: Axes, series: Series, colors: dict[str, str]) -> None:
    size = 5 if len(series.steps) <= 40 else 2.5
    color = colors[series.split]
    axes.plot(
        series.steps, series.values, MARKS[series.split], color=color, markersize=size, linewidth=1.6,
        label=series.split, zorder=3,
    )  # fmt: skip
    if series.best and series.split == "validation":
        axes.plot(
            *zip(*series.best, strict=True), "x", color=color, markersize=size + 2, markeredgewidth=1.6,
            label="least validation loss", zorder=4,
        )  # fmt: skip
