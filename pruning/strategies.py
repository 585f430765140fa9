"""The named strategies: each is one row of defaults, nothing more.

Torch-free: the API lists the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Strategy:
    name: str
    title: str
    source: str
    defaults: Mapping[str, Any]


_LENET_300_100_TRAINING = {
    "steps": 2000,
    "batch_size": 60,
    "optimizer": {"name": "adam", "lr": 0.0012},
    "evaluate_every_steps": 100,
}

_LOTTERY_TICKET = {
    "criterion": {"name": "magnitude"},
    "granularity": "weight",
    "scope": {"kind": "layerwise", "overrides": {"output": {"rate": 0.5}}},
    "schedule": {"kind": "fraction", "fraction": 0.2, "of": "remaining"},
    "stop": {"rounds": 15},
    "training": _LENET_300_100_TRAINING,
}

_FRANKLE_2019 = "Frankle & Carbin, The Lottery Ticket Hypothesis, ICLR 2019"

_ROWS = (
    Strategy(
        "lottery_ticket_reset",
        "Lottery ticket with resetting: prune, set the survivors back to their first values, train again",
        f"{_FRANKLE_2019}, strategy 1",
        {**_LOTTERY_TICKET, "between_rounds": {"weights": "reset"}},
    ),
    Strategy(
        "lottery_ticket_continue",
        "Lottery ticket with continued training: prune and train on; the reset comes once, at the end",
        f"{_FRANKLE_2019}, strategy 2",
        {
            **_LOTTERY_TICKET,
            "between_rounds": {"weights": "continue"},
            "finally": {"weights": "reset", "train": True},
        },
    ),
    Strategy(
        "dropnet",
        "DropNet: revert, train, drop the units of least mean activation, until the accuracy floor",
        "Tan & Motani, DropNet: Reducing Neural Network Complexity via Iterative Pruning, ICML 2020",
        {
            "criterion": {"name": "activation"},
            "granularity": "unit",
            "scope": {"kind": "global"},
            "schedule": {"kind": "fraction", "fraction": 0.2, "of": "remaining"},
            "between_rounds": {"weights": "reset"},
            "stop": {"rounds": 20, "accuracy_floor": {"factor": 0.98, "on_floor": "last_passing"}},
            "training": {
                "epochs": 100,
                "batch_size": 32,
                "optimizer": {"name": "sgd", "lr": 0.1},
                "early_stopping": {"patience": 5},
            },
        },
    ),
)

STRATEGIES: dict[str, Strategy] = {row.name: row for row in _ROWS}

_ALTERNATIVES = ({"steps", "epochs"}, {"factor", "value"})


def merge(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given, over the defaults, section by section; a null takes a default away.

    A section of another kind (`kind`, `name`) replaces the default's section whole, and one of two alternatives
    (steps or epochs, factor or value) displaces the other: `epochs: 3` over `steps: 2000` means three epochs.
    """
    merged = dict(defaults)
    for pair in _ALTERNATIVES:
        if any(given.get(key) is not None for key in pair):
            merged = {key: value for key, value in merged.items() if key not in pair}
    for key, value in given.items():
        default = merged.get(key)
        if isinstance(default, Mapping) and isinstance(value, Mapping) and _same_kind(default, value):
            merged[key] = merge(default, value)
        else:
            merged[key] = value
    return merged


def _same_kind(default: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    return all(given.get(tag, default.get(tag)) == default.get(tag) for tag in ("kind", "name"))
