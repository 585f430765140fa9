"""The name of an entry: a digest of everything that determines it. Equal names, equal bits of model, masks and ticket.

A name is a sha256 over canonical JSON, and each holds the name of the entry before, so that a job which is extended, or
corrected in what binds later, has the names of its first rounds still. Where it is not certain that something does not
matter, it is part of the name: a name that is shared wrongly gives wrong results, one that is not costs time.

What does not matter to a round, and is in no name: `stop` (it only ends the loop), gates and `select`, `materialize`
(both read rounds that are made), `finally` until its own entry, the strategy's name, row ids, and how the job is run.

Torch-free: the process that supervises the training names what it stores.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pruning.recipe import Recipe
from pruning.schedules import most_rounds

ENGINE = 1
"""Raise it with every change after which any recipe may give other bits, or a report another shape or meaning: in what
trains, prunes, draws, evaluates, counts or writes files. Not for another speed, nor for what only ends a loop, selects,
or is stored beside the rounds. In doubt, raise it: all is computed once more. Versions of torch and CUDA are in the
determinism class."""


@dataclass(frozen=True)
class Contents:
    """What a job works on, by content.

    Attributes:
        model: {"format", "spec", "sha256"}.
        dataset: {"format", "sha256"}.
    """

    model: Mapping[str, Any]
    dataset: Mapping[str, Any]


def is_nameable(recipe: Recipe) -> bool:
    """A recipe that is bounded by seconds makes other rounds on another day."""
    return recipe.stop.seconds is None


def round_name(
    recipe: Recipe, number: int, previous: str | None, contents: Contents, determinism: Mapping[str, Any]
) -> str:
    """Of the numbered round. `previous`: the name of the round before; None for round 0.

    Args:
        determinism: class of machine that computes it (`worker.machine.determinism_class`).
    """
    if (number == 0) != (previous is None):
        raise ValueError("round 0, and no other, follows on none")
    return _digest(
        _shared(recipe, contents, determinism) | (_dense(recipe) if number == 0 else _pruned(recipe, number, previous))
    )


def final_name(
    recipe: Recipe, position: int, previous: str, chosen: str, contents: Contents, determinism: Mapping[str, Any]
) -> str:
    """Of the unnumbered entry at `position`. `previous`: the name of the last round; `chosen`: of that whose masks it
    has, and perhaps its weights."""
    whole = recipe.to_json()
    return _digest(
        _shared(recipe, contents, determinism)
        | {"entry": "final", "position": position, "previous": previous, "chosen": chosen}
        | {name: whole[name] for name in ("finally", "between_rounds", "granularity", "scope", "schedule")}
    )


def _shared(recipe: Recipe, contents: Contents, determinism: Mapping[str, Any]) -> dict[str, Any]:
    whole = recipe.to_json()
    return {
        "engine": ENGINE,
        "determinism": dict(determinism),
        "model": dict(contents.model),
        "dataset": dict(contents.dataset),
        "training": whole["training"],
        "seed": recipe.seed,
        # One learning-rate schedule over all rounds: each step's rate depends on how many there are.
        "rounds": most_rounds(recipe) if recipe.between_rounds.learning_rate == "continue" else None,
    }


def _dense(recipe: Recipe) -> dict[str, Any]:
    """Of the dense network nothing is pruned: only which layers have masks is asked, and what is kept for later."""
    ignored = sorted(layer for layer, override in recipe.scope.overrides.items() if override.ignore)
    # `output` and a layer's own name may mean one layer, of which the own name then says more: so those are all there.
    named = sorted(recipe.scope.overrides) if "output" in ignored else []
    whole = recipe.to_json()
    # What is measured behind round 0 is a part of its report, by the recipe's own way to prune.
    measured = ("sensitivity", "criterion", "scope") if recipe.sensitivity is not None else ()
    return {axis: whole[axis] for axis in measured} | {
        "entry": 0,
        "granularity": recipe.granularity,
        "ignored": ignored,
        "overridden": named,
        "ticket_step": recipe.between_rounds.step if recipe.rewinds_weights else None,
        "keeps_optimizer": recipe.between_rounds.optimizer_state == "keep",
    }


def _pruned(recipe: Recipe, number: int, previous: str | None) -> dict[str, Any]:
    whole = recipe.to_json()
    axes = ("criterion", "granularity", "scope", "schedule", "between_rounds", "controls")
    # Whether round 0's ticket is the rewound one is said by its name alone, which `previous` leads back to.
    return {"entry": number, "previous": previous} | {axis: whole[axis] for axis in axes}


def _digest(what: Mapping[str, Any]) -> str:
    """Keys sorted, no spaces, ASCII, floats as `repr` has them, no NaN: one text for equal values."""
    text = json.dumps(what, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
