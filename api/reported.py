"""Numbers of a round's report. It comes from a process that is not trusted: one is taken only where there is one."""

from __future__ import annotations

import math
from typing import Any


def number_in(values: Any, name: str) -> float | None:
    """A finite number of a report's mapping; None where there is no such thing."""
    return _finite(values.get(name)) if isinstance(values, dict) else None


def numbers_in(values: Any) -> dict[str, float]:
    """All finite numbers of a report's mapping."""
    told = {name: _finite(value) for name, value in values.items()} if isinstance(values, dict) else {}
    return {name: value for name, value in told.items() if value is not None}


def mapping_in(values: Any, name: str) -> dict[str, Any]:
    """A mapping within a report's mapping; an empty one where there is no such thing."""
    value = values.get(name) if isinstance(values, dict) else None
    return value if isinstance(value, dict) else {}


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number that no float reaches
        return None
