"""Draws a job's plots with matplotlib: its object-oriented half alone, in memory, one figure at a time.

Text is drawn as outlines of the font that matplotlib brings, so that a picture looks the same in a browser, in a
container without fonts, and in ten years. Import this late: it costs a second and 50 MB.
"""

from __future__ import annotations

import io
from functools import lru_cache

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from api.look import COLORS, MARKS, METADATA, SETTINGS, STYLES, drawing, dress, layout, percent
from api.picture import Course, Format, Layers, Line, Picture, Point, Theme
from api.plotting_course import draw_course
from api.plotting_layers import draw_layers


@lru_cache(maxsize=128)
def drawn(picture: Picture | Course | Layers, format: Format, theme: Theme) -> bytes:
    """The same bytes for the same picture. Blocks for a part of a second: not for an event loop."""
    with drawing, matplotlib.rc_context(SETTINGS):
        colors = COLORS[theme]
        figure = Figure(figsize=(8, 4.8), dpi=150, facecolor=colors["background"], layout=layout())
        if isinstance(picture, Layers):
            draw_layers(figure, picture, colors, theme)
        elif isinstance(picture, Course):
            draw_course(figure, picture, colors)
        else:
            _draw_curve(figure, picture, colors)
        file = io.BytesIO()
        figure.savefig(file, format=format, metadata=METADATA[format])
    return file.getvalue()


def _draw_curve(figure: Figure, picture: Picture, colors: dict[str, str]) -> None:
    axes = figure.add_subplot()
    dress(axes, colors, picture.title, _selected(picture))
    axes.set_xlabel(f"{picture.unit} remaining, log scale (below: removed)", color=colors["text"])
    axes.set_ylabel("accuracy (fraction right)" if picture.metric == "accuracy" else "loss", color=colors["text"])
    if not picture.points:
        axes.set_axis_off()
        figure.text(0.5, 0.45, f"no trained round with {picture.metric} yet", ha="center", color=colors["text"])
        return
    _draw_lines(axes, picture.lines, colors)
    _draw_points(axes, picture.points, colors)
    _scale(axes, picture)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=11, labelcolor=colors["text"])


def _draw_lines(axes: Axes, lines: tuple[Line, ...], colors: dict[str, str]) -> None:
    gates = [line for line in lines if line.kind == "gate"]
    for line in lines:
        words = line.words
        if line in gates and len(gates) > 1:  # a legend of twenty would be all there is to see
            words = "gates" if line is gates[0] else "_"
        axes.axhline(line.value, color=colors[line.kind], linestyle=STYLES[line.kind], linewidth=1.6, label=words)


def _draw_points(axes: Axes, points: tuple[Point, ...], colors: dict[str, str]) -> None:
    size = 5.5 if len(points) <= 40 else 3
    front = sorted((p for p in points if p.on_front), key=lambda p: -p.remaining)
    axes.plot(*_series(front), color=colors["front"], linewidth=7, alpha=0.3, solid_capstyle="round", zorder=2)
    axes.plot(
        *_series(front), "o", color=colors["front"], markersize=size + 5, markerfacecolor="none",
        markeredgewidth=1.6, label="Pareto front", zorder=4,
    )  # fmt: skip
    numbered = [p for p in points if p.round != "final"]
    if tested := [(p.remaining, p.test) for p in numbered if p.test is not None]:
        axes.plot(
            *zip(*tested, strict=True), MARKS["test"], color=colors["test"], markersize=size - 1, linewidth=1.3,
            label="test", zorder=3,
        )  # fmt: skip
    axes.plot(
        *_series(numbered), MARKS["validation"], color=colors["validation"], markersize=size, linewidth=1.8,
        label="validation", zorder=3,
    )  # fmt: skip
    for final in (p for p in points if p.round == "final"):
        axes.plot(
            *_series([final]), "D", color=colors["validation"], markersize=size + 1, label="final, validation", zorder=3
        )
    for chosen in (p for p in points if p.selected):
        axes.plot(
            *_series([chosen]), "*", color=colors["text"], markersize=17, markeredgecolor=colors["background"],
            label="selected", zorder=5,
        )  # fmt: skip


def _scale(axes: Axes, picture: Picture) -> None:
    least = min(point.remaining for point in picture.points)
    margin = max(1.02, (1 / least) ** 0.05) if least < 1 else 1.25
    axes.set_xscale("log")
    axes.set_xlim(margin, least / margin)
    axes.xaxis.set_major_locator(FixedLocator(ticks(least)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda left, _: f"{percent(left)}\n{percent(1 - left)}"))
    values = [p.validation for p in picture.points] + [p.test for p in picture.points if p.test is not None]
    values += [line.value for line in picture.lines]
    low, high = min(values), max(values)
    pad = max(0.08 * (high - low), 0.005 if picture.metric == "accuracy" else 0.01 * max(abs(high), 1e-6))
    axes.set_ylim(low - pad, high + pad)
    axes.ticklabel_format(axis="y", useOffset=False)


def _selected(picture: Picture) -> str:
    for point in picture.points:
        if point.selected:
            name = "the final entry" if point.round == "final" else f"round {point.round}"
            return f"selected: {name}, {picture.metric} {point.validation:.4g}, {percent(1 - point.remaining)} removed"
    return "no round is selected yet"


def ticks(least: float) -> list[float]:
    """100%, 50%, 20%, 10%, ... down to what is left at last; every tenth where little is removed."""
    if least > 0.35:
        return [tenth / 10 for tenth in range(10, int(least * 10) - 1, -1)]
    steps = (1.0, 0.5, 0.2) if least > 1e-4 else (1.0,)
    return [step * 10.0**-decade for decade in range(8) for step in steps if step * 10.0**-decade > 0.8 * least]


def _series(points: list[Point]) -> tuple[list[float], list[float]]:
    return [p.remaining for p in points], [p.validation for p in points]
