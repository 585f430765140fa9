"""Draws a job's plot with matplotlib: its object-oriented half alone, in memory, one figure at a time.

Text is drawn as outlines of the font that matplotlib brings, so that a picture looks the same in a browser, in a
container without fonts, and in ten years. Import this late: it costs a second and 50 MB.
"""

from __future__ import annotations

import io
import threading
from functools import lru_cache
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from api.picture import Format, Picture, Point, Theme

COLORS: dict[Theme, dict[str, str]] = {
    "light": {
        "background": "#ffffff", "text": "#1f2328", "grid": "#d8dee4", "validation": "#0969da", "test": "#bc4c00",
        "front": "#1a7f37", "dense": "#57606a", "floor": "#8250df", "gate": "#cf222e",
    },
    "dark": {
        "background": "#0d1117", "text": "#e6edf3", "grid": "#30363d", "validation": "#58a6ff", "test": "#f0883e",
        "front": "#3fb950", "dense": "#9198a1", "floor": "#d2a8ff", "gate": "#ff7b72",
    },
}  # fmt: skip
STYLES: dict[str, Any] = {"dense": (0, (6, 3)), "floor": (0, (1, 2)), "gate": (0, (4, 2, 1, 2))}
_FONT = "DejaVu Sans"
SETTINGS: dict[Any, Any] = {
    "text.usetex": False,  # whatever this machine's own matplotlibrc says: a stranger's title is no program
    "svg.fonttype": "path",
    "svg.hashsalt": "espalier",  # else the ids in it would be new ones each time
    "font.family": _FONT,
    "font.size": 10,
}
METADATA: dict[Format, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": "Espalier"},
    "png": {"Software": "Espalier"},
}
_MAX_TITLE = 70

drawing = threading.Lock()
"""matplotlib promises no safety among threads: its fonts and its settings are shared."""


@lru_cache(maxsize=64)
def drawn(picture: Picture, format: Format, theme: Theme) -> bytes:
    """The same bytes for the same picture. Blocks for a part of a second: not for an event loop."""
    with drawing, matplotlib.rc_context(SETTINGS):
        colors = COLORS[theme]
        figure = Figure(figsize=(8, 4.8), dpi=150, facecolor=colors["background"], layout=layout())
        axes = figure.add_subplot()
        _style(axes, picture, colors)
        if picture.points:
            _draw(axes, picture, colors)
            figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9, labelcolor=colors["text"])
        else:
            axes.set_axis_off()
            figure.text(0.5, 0.45, "no trained round yet", ha="center", color=colors["text"], fontsize=13)
        file = io.BytesIO()
        figure.savefig(file, format=format, metadata=METADATA[format])
    return file.getvalue()


def layout() -> ConstrainedLayoutEngine:
    return ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)


def _style(axes: Axes, picture: Picture, colors: dict[str, str]) -> None:
    axes.set_facecolor(colors["background"])
    for name, spine in axes.spines.items():
        spine.set(color=colors["text"], visible=name in ("left", "bottom"))
    axes.tick_params(colors=colors["text"])
    axes.grid(color=colors["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    # A name is a stranger's text: `$` in it is no formula.
    title = "\n".join(map(readable, (picture.title, _selected(picture))))
    axes.set_title(title, color=colors["text"], fontsize=11, parse_math=False)
    axes.set_xlabel(f"{picture.unit} remaining, log scale (below: removed)", color=colors["text"])
    axes.set_ylabel(picture.metric, color=colors["text"])


def _draw(axes: Axes, picture: Picture, colors: dict[str, str]) -> None:
    points = picture.points
    size = 5.5 if len(points) <= 40 else 3
    gates = [line for line in picture.lines if line.kind == "gate"]
    for line in picture.lines:
        words = line.words
        if line in gates and len(gates) > 1:  # a legend of twenty would be all there is to see
            words = "gates" if line is gates[0] else "_"
        axes.axhline(line.value, color=colors[line.kind], linestyle=STYLES[line.kind], linewidth=1.3, label=words)
    front = sorted((p for p in points if p.on_front), key=lambda p: -p.remaining)
    axes.plot(*_series(front), color=colors["front"], linewidth=7, alpha=0.35, solid_capstyle="round", zorder=2)
    axes.plot(
        *_series(front), "o", color=colors["front"], markersize=size + 5, markerfacecolor="none",
        markeredgewidth=1.6, label="Pareto front", zorder=4,
    )  # fmt: skip
    numbered = [p for p in points if p.round != "final"]
    if tested := [(p.remaining, p.test) for p in numbered if p.test is not None]:
        axes.plot(
            *zip(*tested, strict=True),
            "s--",
            color=colors["test"],
            markersize=size - 1,
            linewidth=1.2,
            label="test",
            zorder=3,
        )
    axes.plot(
        *_series(numbered),
        "o-",
        color=colors["validation"],
        markersize=size,
        linewidth=1.6,
        label="validation",
        zorder=3,
    )
    for final in (p for p in points if p.round == "final"):
        axes.plot(
            *_series([final]), "D", color=colors["validation"], markersize=size + 1, label="final, validation", zorder=3
        )
    for chosen in (p for p in points if p.selected):
        axes.plot(
            *_series([chosen]), "*", color=colors["text"], markersize=17, markeredgecolor=colors["background"],
            label="selected", zorder=5,
        )  # fmt: skip
    _scale(axes, picture)


def _scale(axes: Axes, picture: Picture) -> None:
    least = min(point.remaining for point in picture.points)
    margin = max(1.02, (1 / least) ** 0.05) if least < 1 else 1.25
    axes.set_xscale("log")
    axes.set_xlim(margin, least / margin)
    axes.xaxis.set_major_locator(FixedLocator(_ticks(least)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda left, _: f"{_percent(left)}\n{_percent(1 - left)}"))
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
            return f"selected: {name}, {picture.metric} {point.validation:.4g}, {_percent(1 - point.remaining)} removed"
    return "no round is selected yet"


def _ticks(least: float) -> list[float]:
    """100%, 50%, 20%, 10%, ... down to what is left at last; every tenth where little is removed."""
    if least > 0.35:
        return [tenth / 10 for tenth in range(10, int(least * 10) - 1, -1)]
    steps = (1.0, 0.5, 0.2) if least > 1e-4 else (1.0,)
    return [step * 10.0**-decade for decade in range(8) for step in steps if step * 10.0**-decade > 0.8 * least]


def _percent(fraction: float) -> str:
    """Three digits of what is left or gone, whichever is less: 99.9% is not 100%."""
    digits = max(0, min(4, 1 - _exponent(min(fraction, 1 - fraction) * 100)))
    return f"{fraction * 100:.{digits}f}".rstrip("0").rstrip(".") + "%" if digits else f"{fraction * 100:.0f}%"


def _exponent(value: float) -> int:
    return int(f"{value:e}".partition("e")[2]) if value > 1e-9 else 1


def _series(points: list[Point]) -> tuple[list[float], list[float]]:
    return [p.remaining for p in points], [p.validation for p in points]


def readable(text: str) -> str:
    """What the font can draw of it, on one line: no control characters, no reversed directions, not too long."""
    glyphs = get_font(findfont(_FONT)).get_charmap()
    text = "".join(c if c.isprintable() and ord(c) in glyphs else "\ufffd" for c in text)
    return text if len(text) <= _MAX_TITLE else text[: _MAX_TITLE - 1] + "…"
