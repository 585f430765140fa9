"""What follows on the entries that a job has: another round, the final entry, or nothing.

Torch-free: the process that supervises the training asks the same question of rounds that nobody has to train.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pruning.budgets import Budget
from pruning.recipe import Recipe
from pruning.schedules import most_rounds
from pruning.selection import RoundRecord, passes_floor, rounds_without_progress

Follows = Literal["round", "final", "nothing"]


def is_met(recipe: Recipe, budget: Budget, rounds: Sequence[RoundRecord]) -> bool:
    """Whether the last of these rounds ends the loop."""
    if not rounds:
        return False
    stop, last, dense = recipe.stop, rounds[-1], rounds[0]
    return (
        len(rounds) > most_rounds(recipe)
        or (stop.sparsity is not None and budget.meets(stop.sparsity, last.sparsity))
        or not passes_floor(last, dense, stop.accuracy_floor)
        or (stop.seconds is not None and sum(round_.seconds for round_ in rounds) >= stop.seconds)
        or (stop.patience is not None and rounds_without_progress(rounds) >= stop.patience)
    )


def what_follows(recipe: Recipe, budget: Budget, entries: Sequence[RoundRecord]) -> Follows:
    """On these entries, as far as they tell. A round that would find nothing left to prune is not made all the same:
    only who has the masks can know."""
    if entries and entries[-1].number is None:
        return "nothing"
    if not is_met(recipe, budget, entries):
        return "round"
    return (
        "final" if has_final(recipe) and passes_floor(entries[0], entries[0], recipe.stop.accuracy_floor) else "nothing"
    )


def has_final(recipe: Recipe) -> bool:
    """Whether the rounds are followed by one more, unnumbered entry."""
    return recipe.finally_.weights != "none" or recipe.finally_.train
