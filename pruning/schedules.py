"""How many weights or units each round prunes, and where that leads: arithmetic on layer sizes alone.

The loop and the check at submission share it, so a target that a recipe cannot reach is refused before any training,
and the number of rounds is known at once. Torch-free: the API reads this module.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pruning.recipe import MAX_ROUNDS, LayerOverride, Recipe, Scope


@dataclass(frozen=True)
class LayerSize:
    """A prunable layer: how many weights (granularity weight) or units (granularity unit) it has."""

    name: str
    size: int
    is_output: bool = False


@dataclass(frozen=True)
class PlannedRound:
    number: int
    remaining: dict[str, int]
    sparsity: float


def layer_sizes(model_report: Mapping[str, Any], granularity: str) -> list[LayerSize]:
    """What competes, from the report of `pruning.intake.inspect_model`: exactly what the loop prunes.

    Units: one size for each group of layers that have their units in common, under the name of its first layer.
    """
    layers = [layer for layer in model_report["layers"] if granularity in layer["prunable"]]
    if granularity == "unit":
        firsts = [layer for layer in layers if layer["group"] == layer["name"]]
        return [LayerSize(layer["name"], layer["num_units"]) for layer in firsts]
    return [LayerSize(layer["name"], layer["num_weights"], layer["is_output"]) for layer in layers]


class RecipeRefused(ValueError):
    """The recipe cannot do on this model what it asks for. `field` is its path within the recipe."""

    def __init__(self, field: tuple[str, ...], message: str) -> None:
        super().__init__(message)
        self.field = field


def count_to_prune(remaining: int, fraction: float | Fraction, granularity: str) -> int:
    """k of one round, for one layer or for the network where all layers compete.

    Weights: floor(f * remaining + 0.5) (Frankle & Carbin 2019, s% of what remains). Units: max(1, floor(f * remaining))
    (Tan & Motani 2020), so that small layers do not stand still. The fraction counts as the decimal that was written:
    in binary, 0.29 * 100 is less than 29.
    """
    exact = _exactly(fraction) * remaining
    if granularity == "unit":
        return min(remaining, max(1, math.floor(exact)))
    return math.floor(exact + Fraction(1, 2))


def _exactly(number: float | Fraction) -> Fraction:
    return number if isinstance(number, Fraction) else Fraction(str(number))


def resolve_overrides(scope: Scope, layers: Sequence[LayerSize]) -> dict[str, LayerOverride]:
    """The override of each layer by its own name; the key `output` means the output layer.

    A key `output` says nothing where the output layer is not prunable (its units never are).
    Raises RecipeRefused for a key that names no layer, with the nearest names.
    """
    by_name = {layer.name: scope.overrides.get(layer.name, LayerOverride()) for layer in layers}
    for key, override in scope.overrides.items():
        if key in by_name:
            continue
        if key != "output":
            near = difflib.get_close_matches(key, by_name, n=3, cutoff=0.3) or sorted(by_name)[:5]
            raise RecipeRefused(
                ("scope", "overrides", key),
                f"no prunable layer is called {key!r}; did you mean {', '.join(near)}?",
            )
        for layer in layers:
            if layer.is_output and layer.name not in scope.overrides:  # a layer's own name says more than `output`
                by_name[layer.name] = override
    return by_name


def counts_by_layer(
    remaining: Mapping[str, int], recipe: Recipe, overrides: Mapping[str, LayerOverride]
) -> dict[str, int]:
    """k of the next round for each layer, where scores compete within layers."""
    counts = {}
    for name, left in remaining.items():
        override = overrides[name]
        rate = 1 if override.rate is None else _exactly(override.rate)
        fraction = min(Fraction(1), _exactly(recipe.schedule.fraction) * rate)
        counts[name] = min(count_to_prune(left, fraction, recipe.granularity), left - floor_of(name, recipe, overrides))
    return counts


def count_globally(remaining: Mapping[str, int], recipe: Recipe, overrides: Mapping[str, LayerOverride]) -> int:
    """k of the next round for the whole network, where all layers compete: never more than can go."""
    total = sum(remaining.values())
    can_go = sum(left - floor_of(name, recipe, overrides) for name, left in remaining.items())
    return min(count_to_prune(total, recipe.schedule.fraction, recipe.granularity), can_go)


def floor_of(name: str, recipe: Recipe, overrides: Mapping[str, LayerOverride]) -> int:
    """What always stays in a layer: `min_units` units, or one weight (a layer without any disconnects the network)."""
    return overrides[name].min_units if recipe.granularity == "unit" else 1


def _rounds(layers: Sequence[LayerSize], recipe: Recipe) -> Iterator[PlannedRound]:
    overrides = resolve_overrides(recipe.scope, layers)
    remaining = {layer.name: layer.size for layer in layers if not overrides[layer.name].ignore}
    for name, size in remaining.items():
        if recipe.granularity == "unit" and overrides[name].min_units > size:
            raise RecipeRefused(
                ("scope", "overrides", name, "min_units"),
                f"layer {name} has only {size} units, fewer than min_units {overrides[name].min_units}",
            )
    total = sum(remaining.values())
    if total == 0:
        raise RecipeRefused(("scope", "overrides"), f"no {recipe.granularity} of this model is left to prune")
    yield PlannedRound(0, dict(remaining), 0.0)
    for number in range(1, MAX_ROUNDS + 1):
        if recipe.scope.kind == "global":
            # Which layers lose the k is known only with the scores; the total is all that the plan needs.
            counts = _spread(count_globally(remaining, recipe, overrides), remaining, recipe, overrides)
        else:
            counts = counts_by_layer(remaining, recipe, overrides)
        if sum(counts.values()) == 0:
            return
        remaining = {name: left - counts[name] for name, left in remaining.items()}
        yield PlannedRound(number, dict(remaining), 1 - sum(remaining.values()) / total)


def _spread(
    count: int, remaining: Mapping[str, int], recipe: Recipe, overrides: Mapping[str, LayerOverride]
) -> dict[str, int]:
    counts = {}
    for name, left in sorted(remaining.items(), key=lambda item: -item[1]):
        counts[name] = min(count, left - floor_of(name, recipe, overrides))
        count -= counts[name]
    return counts


def target_sparsity(
    layers: Sequence[LayerSize], recipe: Recipe, overrides: Mapping[str, LayerOverride], number: int
) -> float:
    """What the schedule's fractions alone make of round `number`, before rounding to whole weights or units.

    `layers` are those that compete, without the ignored ones.
    """
    left = 0.0
    for layer in layers:
        rate = overrides[layer.name].rate
        left += layer.size * (1 - min(1.0, recipe.schedule.fraction * (1.0 if rate is None else rate))) ** number
    return 1 - left / sum(layer.size for layer in layers)


def plan(layers: Sequence[LayerSize], recipe: Recipe) -> list[PlannedRound]:
    """The rounds of a job on a model with these layers, round 0 first, if no accuracy floor ends it before.

    Ends at the first round that meets `stop.sparsity`, at `stop.rounds`, or where nothing is left to prune.

    Raises:
        RecipeRefused: an override names no layer, or the target sparsity is out of reach.
    """
    target, limit = recipe.stop.sparsity, recipe.stop.rounds or MAX_ROUNDS
    planned: list[PlannedRound] = []
    exhausted = True
    for planned_round in _rounds(layers, recipe):
        planned.append(planned_round)
        if target is not None and planned_round.sparsity >= target:
            return planned
        if planned_round.number == limit:
            exhausted = False
            break
    if target is not None:
        _refuse_target(target, planned[-1], exhausted, layers, recipe)
    return planned


def _refuse_target(
    target: float, last: PlannedRound, exhausted: bool, layers: Sequence[LayerSize], recipe: Recipe
) -> None:
    if exhausted:
        remedy = "nothing more can be pruned there; lower stop.sparsity"
    else:
        needed = next((r.number for r in _rounds(layers, recipe) if r.sparsity >= target), None)
        remedy = (
            f"set stop.rounds to {needed} or more, or raise schedule.fraction"
            if needed is not None
            else "raise schedule.fraction or lower stop.sparsity"
        )
    raise RecipeRefused(
        ("stop", "sparsity"),
        f"sparsity {target:g} is out of reach: round {last.number} ends at {last.sparsity:.4f}; {remedy}",
    )
