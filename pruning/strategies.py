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
_TAN_2020 = "Tan & Motani, DropNet: Reducing Neural Network Complexity via Iterative Pruning, ICML 2020"

_RESET = {**_LOTTERY_TICKET, "between_rounds": {"weights": "reset"}}

_GLOBALLY = {
    **_LOTTERY_TICKET,
    "scope": {"kind": "global"},
}

_DROPNET = {
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
}

_AT_START = {
    "granularity": "weight",
    "scope": {"kind": "global"},
    "schedule": {"kind": "one_shot", "sparsity": 0.9},
    "between_rounds": {"weights": "reset"},
    "stop": {},
    "training": _LENET_300_100_TRAINING,
}
"""Scored at the first weights; round 0 trains the dense network beside it, as the control."""

_ONE_SHOT = {
    **_AT_START,
    "criterion": {"name": "magnitude"},
    "between_rounds": {"weights": "continue", "learning_rate": "constant"},
}

_ROWS = (
    Strategy(
        "lottery_ticket_reset",
        "Lottery ticket with resetting: prune, set the survivors back to their first values, train again",
        f"{_FRANKLE_2019}, strategy 1",
        _RESET,
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
        "rewind",
        "Weights and schedule rewound to an early step instead of the first: for deeper networks",
        "Frankle et al., Linear Mode Connectivity and the Lottery Ticket Hypothesis, ICML 2020",
        {**_GLOBALLY, "between_rounds": {"weights": "rewind", "step": 100, "learning_rate": "rewind"}},
    ),
    Strategy(
        "learning_rate_rewind",
        "Trained weights kept, the whole learning-rate schedule run again after each pruning",
        "Renda et al., Comparing Rewinding and Fine-tuning in Neural Network Pruning, ICLR 2020",
        {**_GLOBALLY, "between_rounds": {"weights": "continue", "learning_rate": "restart"}},
    ),
    Strategy(
        "fine_tune",
        "Prune, and train on at the last learning rate",
        "Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015",
        {**_LOTTERY_TICKET, "between_rounds": {"weights": "continue", "learning_rate": "constant"}},
    ),
    Strategy(
        "gradual",
        "Pruned a little every few steps of one long training: rounds are its stretches, the optimiser goes on",
        "Zhu & Gupta, To Prune, or Not to Prune, 2017",
        {
            "criterion": {"name": "magnitude"},
            "granularity": "weight",
            "scope": {"kind": "layerwise"},
            "schedule": {"kind": "polynomial", "sparsity": 0.9, "rounds": 20, "power": 3},
            "between_rounds": {"weights": "continue", "learning_rate": "continue", "optimizer_state": "keep"},
            "stop": {},
            "training": {**_LENET_300_100_TRAINING, "steps": 200},
        },
    ),
    Strategy(
        "one_shot",
        "Trained, pruned once to the goal, trained on at the last learning rate",
        "Han et al. 2015, without its iterations; Blalock et al., What is the State of Neural Network Pruning?, 2020",
        _ONE_SHOT,
    ),
    Strategy(
        "dropnet",
        "DropNet: revert, train, drop the units of least mean activation, until the accuracy floor",
        _TAN_2020,
        _DROPNET,
    ),
    Strategy(
        "dropnet_layerwise",
        "DropNet layer by layer: each layer drops its own units of least mean activation",
        f"{_TAN_2020}, minimum_layer",
        {**_DROPNET, "scope": {"kind": "layerwise"}},
    ),
    Strategy(
        "dropnet_maximum",
        "The control that drops the units of most mean activation",
        f"{_TAN_2020}, maximum",
        {**_DROPNET, "criterion": {"name": "activation", "keep": "low"}},
    ),
    Strategy(
        "dropnet_random",
        "The control that drops units at random",
        f"{_TAN_2020}, random",
        {**_DROPNET, "criterion": {"name": "random"}},
    ),
    Strategy(
        "dropnet_apoz",
        "DropNet's loop with the average percentage of zeros instead of the mean activation",
        "Hu et al., Network Trimming, 2016",
        {**_DROPNET, "criterion": {"name": "apoz"}},
    ),
    Strategy(
        "random_reinit",
        "Lottery ticket with resetting; beside each round its masks on newly drawn weights, never fed back",
        f"{_FRANKLE_2019}, section 2",
        {**_RESET, "controls": ["random_reinit"]},
    ),
    Strategy(
        "random_mask",
        "Lottery ticket with resetting; beside each round as many weights of each layer at random",
        "Frankle et al., Pruning Neural Networks at Initialization: Why Are We Missing the Mark?, ICLR 2021",
        {**_RESET, "controls": ["random_mask"]},
    ),
    Strategy(
        "snip",
        "Pruned once before training, by the sensitivity of the loss to each connection",
        "Lee et al., SNIP: Single-shot Network Pruning based on Connection Sensitivity, ICLR 2019",
        {**_AT_START, "criterion": {"name": "snip"}},
    ),
    Strategy(
        "grasp",
        "Pruned once before training, so that the gradient still flows",
        "Wang et al., Picking Winning Tickets Before Training by Preserving Gradient Flow, ICLR 2020",
        {**_AT_START, "criterion": {"name": "grasp"}},
    ),
    Strategy(
        "synflow",
        "Pruned before training in a hundred small steps, without any data",
        "Tanaka et al., Pruning Neural Networks without Any Data by Iteratively Conserving Synaptic Flow, NeurIPS 2020",
        {**_AT_START, "criterion": {"name": "synflow"}},
    ),
    Strategy(
        "wanda",
        "Trained, pruned once within each output by weight times input norm, trained on",
        "Sun et al., A Simple and Effective Pruning Approach for Large Language Models, ICLR 2024",
        {
            **_ONE_SHOT,
            "criterion": {"name": "wanda"},
            "scope": {"kind": "row"},
            "schedule": {"kind": "one_shot", "sparsity": 0.5},
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
