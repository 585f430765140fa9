"""A curve in characters: one column a round, eight levels a line."""

from __future__ import annotations

from collections.abc import Sequence

BLOCKS = " ▁▂▃▄▅▆▇█"
COLUMN = 3
"""Characters a round."""


def chart(values: Sequence[float | None], height: int, low: float, high: float, form: str) -> list[str]:
    """Bars from `low` to `high` as lines of text, the highest first, with the scale at the left.

    Args:
        values: one a round; None where nothing was measured.
        form: how numbers of the scale are written, such as `.3f`.
    """
    span = high - low or 1.0
    eighths = [None if value is None else max(1, round(8 * height * (value - low) / span)) for value in values]
    lines = []
    for row in range(height - 1, -1, -1):
        scale = format(high if row == height - 1 else low, form) if row in (0, height - 1) else ""
        bars = "".join(
            " " * COLUMN if level is None else BLOCKS[min(8, max(0, level - 8 * row))] * (COLUMN - 1) + " "
            for level in eighths
        )
        lines.append(f"{scale:>7} │{bars}".rstrip())
    return lines


def bounds(values: Sequence[float | None]) -> tuple[float, float]:
    """A scale on which differences are seen: a little beyond the least and the greatest."""
    known = [value for value in values if value is not None] or [0.0, 1.0]
    margin = max((max(known) - min(known)) * 0.15, 0.005)
    return min(known) - margin, max(known) + margin


def axis(names: Sequence[str]) -> list[str]:
    return ["        └" + "─" * (COLUMN * len(names)), "         " + "".join(f"{name:<{COLUMN}}" for name in names)]
