"""How every picture of the service looks: colours, letters, axes.

The colours of data are Okabe and Ito's (Color Universal Design, 2008), told apart by most who see fewer colours, darker
where the ground is white; and no two series differ by colour alone: each has a mark or a line of its own.
"""

from __future__ import annotations

import threading
from typing import Any

from matplotlib.axes import Axes
from matplotlib.font_manager import findfont, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine

from api.picture import Format, Theme

COLORS: dict[Theme, dict[str, str]] = {
    "light": {
        "background": "#ffffff", "text": "#1f2328", "muted": "#59636e", "grid": "#e4e8ec",
        "train": "#767676", "validation": "#0072b2", "test": "#c04f00", "front": "#009e73",
        "dense": "#59636e", "floor": "#a8478a", "gate": "#8a6100",
    },
    "dark": {
        "background": "#0d1117", "text": "#e6edf3", "muted": "#9198a1", "grid": "#262c36",
        "train": "#a0a0a0", "validation": "#56b4e9", "test": "#f08030", "front": "#2fc79a",
        "dense": "#9198a1", "floor": "#e08cc0", "gate": "#e0c040",
    },
}  # fmt: skip
STYLES: dict[str, Any] = {"dense": (0, (6, 3)), "floor": (0, (1, 2)), "gate": (0, (4, 2, 1, 2))}
"""Of the lines across."""
MARKS = {"train": "^:", "validation": "o-", "test": "s--"}
FONT = "DejaVu Sans"
SETTINGS: dict[Any, Any] = {
    "text.usetex": False,  # whatever this machine's own matplotlibrc says: a stranger's title is no program
    "svg.fonttype": "path",
    "svg.hashsalt": "espalier",  # else the ids in it would be new ones each time
    "font.family": FONT,
    "font.size": 12,  # of 576 points of width: 12 pixels and more in a picture that is shown with 600
    "axes.labelsize": 12,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
}
METADATA: dict[Format, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": "Espalier"},
    "png": {"Software": "Espalier"},
}
_MAX_TITLE = 64

drawing = threading.Lock()
"""matplotlib promises no safety among threads: its fonts and its settings are shared."""


def layout() -> ConstrainedLayoutEngine:
    return ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)


def dress(axes: Axes, colors: dict[str, str], *title: str) -> None:
    axes.set_facecolor(colors["background"])
    for name, spine in axes.spines.items():
        spine.set(color=colors["muted"], visible=name in ("left", "bottom"))
    axes.tick_params(colors=colors["muted"], labelcolor=colors["text"])
    axes.grid(color=colors["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    # A name is a stranger's text: `$` in it is no formula.
    text = "\n".join(map(readable, title))
    axes.set_title(text, color=colors["text"], fontsize=12, parse_math=False, loc="left")


def percent(fraction: float) -> str:
    """Three digits of what is left or gone, whichever is less: 99.9% is not 100%."""
    digits = max(0, min(4, 1 - _exponent(min(fraction, 1 - fraction) * 100)))
    return f"{fraction * 100:.{digits}f}".rstrip("0").rstrip(".") + "%" if digits else f"{fraction * 100:.0f}%"


def _exponent(value: float) -> int:
    return int(f"{value:e}".partition("e")[2]) if value > 1e-9 else 1


def readable(text: str, most: int = _MAX_TITLE) -> str:
    """What the font can draw of it, on one line: no control characters, no reversed directions, not too long."""
    glyphs = get_font(findfont(FONT)).get_charmap()
    text = "".join(c if c.isprintable() and ord(c) in glyphs else "\ufffd" for c in text)
    return text if len(text) <= most else text[: most - 1] + "…"
