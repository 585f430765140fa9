"""The rounds of a job before it runs: how many there are, and what each leaves.

The loop and the check at submission share the arithmetic (`pruning.budgets`), so a target that a recipe cannot reach is
refused before any training, and the number of rounds is known at once. Torch-free: the API reads this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruning.budgets import Budget, LayerSize, RecipeRefused, num_scheduled
from pruning.recipe import MAX_ROUNDS, Recipe

__all__ = ["LayerSize", "PlannedRound", "RecipeRefused", "check_steps", "layer_sizes", "most_rounds", "plan"]


@dataclass(frozen=True)
class PlannedRound:
    number: int
    remaining: dict[str, int]
    sparsity: float


def layer_sizes(model_report: Mapping[str, Any], granularity: str) -> list[LayerSize]:
    """What competes, from the report of `pruning.intake.inspect_model`: exactly what the loop prunes.

    Units: one size for each group of layers that have their units in common, under the name of its first layer.
    """
    kind = "unit" if granularity == "unit" else "weight"
    layers = [layer for layer in model_report["layers"] if kind in layer["prunable"]]
    if kind == "unit":
        firsts = [layer for layer in layers if layer["group"] == layer["name"]]
        return [LayerSize(layer["name"], layer["num_units"], least=layer.get("least_units", 1)) for layer in firsts]
    return [
        LayerSize(layer["name"], layer["num_weights"], layer["is_output"], tuple(layer["shape"])) for layer in layers
    ]


def most_rounds(recipe: Recipe) -> int:
    """The number of the last round, if nothing ends the loop before."""
    wanted = MAX_ROUNDS if recipe.stop.rounds is None else recipe.stop.rounds
    return min(wanted, num_scheduled(recipe) or MAX_ROUNDS)


def check_steps(recipe: Recipe, num_steps: int) -> None:
    """
    Raises:
        RecipeRefused: a round trains `num_steps` steps (or fewer), and none of them is the one to rewind to, or all
            of them warm up.
    """
    step = recipe.between_rounds.step
    if step is not None and step >= num_steps:
        raise RecipeRefused(
            ("between_rounds", "step"),
            f"step {step} lies behind the {num_steps} steps that a round trains; lower it, or train longer",
        )
    warmup = recipe.training.learning_rate.warmup_steps
    if warmup and warmup >= num_steps:
        raise RecipeRefused(
            ("training", "learning_rate", "warmup_steps"),
            f"{warmup} steps to warm up leave none of the {num_steps} that a round trains; lower it, or train longer",
        )


def plan(layers: Sequence[LayerSize], recipe: Recipe) -> list[PlannedRound]:
    """The rounds of a job on a model with these layers, round 0 first, if no accuracy floor ends it before.

    Ends at the first round that meets `stop.sparsity`, at `stop.rounds`, with the schedule, or where nothing is left to
    prune.

    Raises:
        RecipeRefused: an override names no layer, a layer is too small or too narrow, or the target sparsity is out of
            reach.
    """
    target, budget = recipe.stop.sparsity, Budget.of(recipe, layers)
    planned: list[PlannedRound] = []
    for planned_round in _rounds(budget, most_rounds(recipe)):
        planned.append(planned_round)
        if target is not None and budget.meets(target, planned_round.sparsity):
            break
    last = planned[-1]
    if last.number == num_scheduled(recipe):
        budget.check_goal(last.remaining)
    if target is not None and not budget.meets(target, last.sparsity):
        _refuse_target(target, last, budget)
    return planned


def _rounds(budget: Budget, limit: int) -> Iterator[PlannedRound]:
    remaining = {name: layer.size for name, layer in budget.layers.items()}
    yield PlannedRound(0, dict(remaining), 0.0)
    for number in range(1, limit + 1):
        counts = budget.counts(remaining, number)
        if sum(counts.values()) == 0 and budget.recipe.schedule.kind == "fraction":
            return
        remaining = {name: left - counts[name] for name, left in remaining.items()}
        yield PlannedRound(number, dict(remaining), budget.sparsity(remaining))


def _refuse_target(target: float, last: PlannedRound, budget: Budget) -> None:
    recipe = budget.recipe
    if recipe.schedule.kind != "fraction" or last.number < most_rounds(recipe):
        remedy = "nothing more can be pruned there; lower stop.sparsity"
        if recipe.granularity == "unit":
            remedy += ", or min_units, which keep what is left (scope.overrides)"
            remedy += "; grouped convolutions keep a unit in each group" if budget.needs_more_than_one else ""
    else:
        needed = next((r.number for r in _rounds(budget, MAX_ROUNDS) if budget.meets(target, r.sparsity)), None)
        remedy = (
            f"set stop.rounds to {needed} or more, or raise schedule.fraction"
            if needed is not None
            else "raise schedule.fraction or lower stop.sparsity"
        )
    raise RecipeRefused(
        ("stop", "sparsity"),
        f"sparsity {target:g} is out of reach: round {last.number} ends at {last.sparsity:.4f}; {remedy}",
    )
