"""Draws a sensitivity scan: a row for each layer, a column for each sparsity, the colour what is left of the metric.

Import this late, as `plotting`.
"""

from __future__ import annotations

import io
import math

import matplotlib
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from api.picture import Format, Theme
from api.plotting import COLORS, METADATA, SETTINGS, drawing, layout, readable
from api.sensitivity import SensitivityDocument, most_sensitive

MAX_ROWS = 40
"""More cannot be read at 600 pixels."""


def drawn(document: SensitivityDocument, title: str, format: Format, theme: Theme) -> bytes:
    """The same bytes for the same scan. Blocks for a part of a second: not for an event loop."""
    rows = [row for row in most_sensitive(document, MAX_ROWS) if row.points]
    with drawing, matplotlib.rc_context(SETTINGS):
        colors = COLORS[theme]
        height = max(2.6, 1.7 + 0.32 * len(rows))
        figure = Figure(figsize=(8, height), dpi=150, facecolor=colors["background"], layout=layout())
        axes = figure.add_subplot()
        axes.set_facecolor(colors["background"])
        axes.tick_params(colors=colors["text"], length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        more = f", the {MAX_ROWS} most sensitive of {len(document.data)}" if len(document.data) > MAX_ROWS else ""
        dense = document.dense.get(document.metric)
        what = f"validation {document.metric} with one layer pruned alone{more}"
        what += f"; dense {dense:.4g}" if dense is not None else ""
        axes.set_title(f"{readable(title)}\n{what}", color=colors["text"], fontsize=11, parse_math=False)
        if rows:
            columns = max(rows, key=lambda row: len(row.points)).points
            values = [
                [row.points[at].metrics.get(document.metric, math.nan) if at < len(row.points) else math.nan
                 for at in range(len(columns))]
                for row in rows
            ]  # fmt: skip
            known = [value for line in values for value in line if math.isfinite(value)]
            known += [dense] if dense is not None else []
            scale = Normalize(min(known, default=0.0), max(known, default=1.0))
            image = axes.imshow(
                values, aspect="auto", cmap="cividis" if document.metric == "accuracy" else "cividis_r", norm=scale
            )
            axes.set_xticks(range(len(columns)), [f"{point.sparsity:.0%}" for point in columns])
            axes.set_yticks(range(len(rows)), [_short(readable(row.layer)) for row in rows], parse_math=False)
            axes.set_xlabel("removed of that layer", color=colors["text"])
            for y, line in enumerate(values):
                for x, value in enumerate(line):
                    if math.isfinite(value) and len(columns) <= 10:
                        dark = (scale(value) < 0.5) == (document.metric == "accuracy")
                        axes.text(
                            x, y, f"{value:.3g}", ha="center", va="center", fontsize=8,
                            color="#ffffff" if dark else "#000000",
                        )  # fmt: skip
            bar = figure.colorbar(image, ax=axes, pad=0.02)
            bar.ax.tick_params(colors=colors["text"])
            bar.set_label(document.metric, color=colors["text"])
            bar.outline.set_visible(False)
        else:
            axes.set_axis_off()
        file = io.BytesIO()
        figure.savefig(file, format=format, metadata=METADATA[format])
    return file.getvalue()


def _short(name: str) -> str:
    """Its end tells most: `…layers.3.attention.query`."""
    return name if len(name) <= 36 else "…" + name[-35:]
