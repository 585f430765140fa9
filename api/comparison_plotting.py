"""Draws a comparison's plot: a line of means and a band over seeds for each recipe. Import this late, as `plotting`.

Colours are Okabe and Ito's, which the colour-blind tell apart, shifted where the background asks for it; a marker of
its own tells each recipe apart in grey, and a dash its controls.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from api.comparison_picture import Panorama, Series, Spot
from api.look import COLORS, SETTINGS, STYLES, drawing, layout, percent, readable
from api.picture import Format, Theme
from api.plotting import ticks

RECIPES: dict[Theme, tuple[str, ...]] = {
    "light": ("#0072B2", "#D55E00", "#009E73", "#B5508A", "#B07A00", "#3A95CC", "#6E5494", "#4D4D4D"),
    "dark": ("#56B4E9", "#FF8A3D", "#2BCB9B", "#E79AC6", "#F0C419", "#7FA8FF", "#C6A6FF", "#D0D0D0"),
}
MARKERS = "os^DvPX*"
CONTROLS = {"random_mask": (0, (1, 1.6)), "random_reinit": (0, (5, 2))}
_GREY: dict[Theme, str] = {"light": "#8c959f", "dark": "#6e7681"}
_MAX_NAME = 34


@lru_cache(maxsize=64)
def drawn_panorama(picture: Panorama, format: Format, theme: Theme) -> bytes:
    """The same bytes for the same picture. Blocks for a part of a second: not for an event loop."""
    with drawing, matplotlib.rc_context(SETTINGS):
        colors = COLORS[theme]
        figure = Figure(figsize=(8, 5.4), dpi=150, facecolor=colors["background"], layout=layout())
        axes = figure.add_subplot()
        _style(axes, picture, colors)
        if picture.series:
            _draw(axes, picture, theme)
            figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9, labelcolor=colors["text"])
        else:
            axes.set_axis_off()
            figure.text(0.5, 0.45, "no trained round yet", ha="center", color=colors["text"], fontsize=13)
        file = io.BytesIO()
        metadata = {"Date": None, "Creator": "Espalier"} if format == "svg" else {"Software": "Espalier"}
        figure.savefig(file, format=format, metadata=metadata)
    return file.getvalue()


def _style(axes: Axes, picture: Panorama, colors: dict[str, str]) -> None:
    axes.set_facecolor(colors["background"])
    for name, spine in axes.spines.items():
        spine.set(color=colors["text"], visible=name in ("left", "bottom"))
    axes.tick_params(colors=colors["text"])
    axes.grid(color=colors["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    # Names are a stranger's text: `$` in them is no formula.
    title = "\n".join(map(readable, (picture.title, picture.subtitle)))
    axes.set_title(title, color=colors["text"], fontsize=11, parse_math=False)
    axes.set_xlabel("parameters remaining, log scale (below: removed)", color=colors["text"])
    axes.set_ylabel(f"validation {picture.metric}", color=colors["text"])


def _draw(axes: Axes, picture: Panorama, theme: Theme) -> None:
    colors = COLORS[theme]
    gates = [line for line in picture.lines if line.kind == "gate"]
    for one in (series for series in picture.series if series.color is None):
        axes.plot(*_means(one.spots), color=_GREY[theme], linewidth=0.8, alpha=0.6, zorder=1)
    others = sum(series.color is None for series in picture.series)
    if others:
        axes.plot([], color=_GREY[theme], linewidth=0.8, label=f"{others} other recipe{'s' * (others != 1)}")
    for series in picture.series:
        if series.color is not None:
            _draw_series(axes, series, RECIPES[theme][series.color])
    if any(series.final is not None and series.color is not None for series in picture.series):
        axes.plot([], "P", color=colors["text"], markersize=8, markerfacecolor="none", label="final entry")
    for line in picture.lines:
        words = line.words
        if line in gates and len(gates) > 1:
            words = "gates" if line is gates[0] else "_"
        axes.axhline(line.value, color=colors[line.kind], linestyle=STYLES[line.kind], linewidth=1.3, label=words)
    if (best := picture.recommended) is not None:
        axes.plot(
            [best.remaining], [best.mean], "o", color=colors["text"], markersize=17, markerfacecolor="none",
            markeredgewidth=2, zorder=6,
        )  # fmt: skip
        words = "recommended" if picture.is_met else "nearest to the goal"
        axes.plot([], "o", color=colors["text"], markersize=10, markerfacecolor="none", markeredgewidth=2, label=words)
    _scale(axes, picture)


def _draw_series(axes: Axes, series: Series, color: str) -> None:
    marker = MARKERS[(series.color or 0) % len(MARKERS)]
    name = readable(series.name)
    name = name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…"
    spots = sorted(series.spots, key=lambda spot: -spot.remaining)
    if series.control is not None:
        axes.plot(
            *_means(spots), color=color, linestyle=CONTROLS.get(series.control, ":"), linewidth=1.4, marker=marker,
            markersize=4, markerfacecolor="none", label=f"{name}: {series.control.replace('_', ' ')}", zorder=2,
        )  # fmt: skip
        return
    if any(spot.low < spot.high for spot in spots):
        axes.fill_between(
            [s.remaining for s in spots], [s.low for s in spots], [s.high for s in spots],
            color=color, alpha=0.16, linewidth=0, zorder=1,
        )  # fmt: skip
    axes.plot(*_means(spots), color=color, marker=marker, markersize=5.5, linewidth=1.8, label=name, zorder=3)
    if (final := series.final) is not None:
        axes.plot(*_means([final]), "P", color=color, markersize=8, markerfacecolor="none", zorder=4)
        axes.vlines(final.remaining, final.low, final.high, color=color, linewidth=1, zorder=3)


def _means(spots: Sequence[Spot]) -> tuple[list[float], list[float]]:
    return [spot.remaining for spot in spots], [spot.mean for spot in spots]


def _scale(axes: Axes, picture: Panorama) -> None:
    spots = [spot for series in picture.series for spot in (*series.spots, series.final) if spot is not None]
    least = min(spot.remaining for spot in spots)
    margin = max(1.02, (1 / least) ** 0.05) if least < 1 else 1.25
    axes.set_xscale("log")
    axes.set_xlim(margin, least / margin)
    axes.xaxis.set_major_locator(FixedLocator(ticks(least)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda left, _: f"{percent(left)}\n{percent(1 - left)}"))
    values = [value for spot in spots for value in (spot.low, spot.high)] + [line.value for line in picture.lines]
    low, high = min(values), max(values)
    pad = max(0.08 * (high - low), 0.005 if picture.metric == "accuracy" else 0.01 * max(abs(high), 1e-6))
    axes.set_ylim(low - pad, high + pad)
    axes.ticklabel_format(axis="y", useOffset=False)
