"""How dense each layer is, round by round: the darker, or on a dark ground the brighter, the more is kept."""

from __future__ import annotations

import math

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from api.look import dress, percent, readable
from api.picture import Layers, Theme

_MAPS: dict[Theme, str] = {"light": "cividis_r", "dark": "cividis"}
"""Even steps of lightness for every kind of sight."""
_LETTERS = 150
"""Cells that have room for a number."""
_NAME = 24


def draw_layers(figure: Figure, layers: Layers, colors: dict[str, str], theme: Theme) -> None:
    axes = figure.add_subplot()
    more = f", {layers.left_out} more layers" if layers.left_out else ""
    dress(axes, colors, layers.title, f"density of each layer (fraction kept){more}")
    axes.grid(visible=False)
    if not layers.rounds:
        axes.set_axis_off()
        figure.text(0.5, 0.45, "no round yet", ha="center", color=colors["text"])
        return
    cells = [[math.nan if value is None else value for value in row] for row in layers.densities]
    norm = PowerNorm(gamma=0.5, vmin=0, vmax=1)  # a tenth and a hundredth are to be told apart
    image = axes.imshow(cells, cmap=colormaps[_MAPS[theme]], norm=norm, aspect="auto", interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, ticks=[0.01, 0.1, 0.25, 0.5, 1], format=PercentFormatter(1, decimals=0))
    bar.ax.tick_params(colors=colors["muted"], labelcolor=colors["text"])
    bar.outline.set_visible(False)
    axes.set_xlabel("round", color=colors["text"])
    _name(axes, layers)
    if len(layers.names) * len(layers.rounds) <= _LETTERS:
        _write(axes, layers, image)
    if layers.selected is not None:
        box = Rectangle((layers.selected - 0.5, -0.5), 1, len(layers.names), fill=False, clip_on=False)
        box.set(edgecolor=colors["text"], linewidth=2.2, zorder=4)
        axes.add_patch(box)


def _name(axes: Axes, layers: Layers) -> None:
    size = 11 if len(layers.names) <= 14 else 7 if len(layers.names) <= 30 else 5
    names = [readable(name, _NAME) for name in layers.names]
    axes.set_yticks(range(len(names)), names, fontsize=size, parse_math=False)
    stride = -(-len(layers.rounds) // 16)
    shown = range(0, len(layers.rounds), stride)
    axes.set_xticks(list(shown), [str(layers.rounds[at]) for at in shown])
    axes.tick_params(length=0)


def _write(axes: Axes, layers: Layers, image: AxesImage) -> None:
    size = 10 if len(layers.rounds) <= 10 else 7.5
    for row, densities in enumerate(layers.densities):
        for column, value in enumerate(densities):
            if value is None:
                continue
            red, green, blue, _ = image.cmap(math.sqrt(value))  # as the norm has it
            color = "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.45 else "#ffffff"
            axes.text(column, row, percent(value), ha="center", va="center", fontsize=size, color=color)
