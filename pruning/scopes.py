# ruff: noqa: ARG001 (scopes share one signature)
"""Where scores compete: within each layer, over the whole network, within each row. Either way exactly k go."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pruning.budgets import Budget
from pruning.masks import Entrywise, prune_smallest, prune_smallest_above_floors, prune_smallest_of_rows
from pruning.recipe import N_OF_M

Scope = Callable[
    [Mapping[str, Tensor], Mapping[str, Tensor], Mapping[str, int], Budget, torch.Generator, Entrywise],
    dict[str, Tensor],
]
"""(scores, kept, how many go of each layer, budget, generator for ties, what scores are compared by) -> what is kept
after the round's pruning."""


def layerwise(
    scores: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    counts: Mapping[str, int],
    budget: Budget,
    generator: torch.Generator,
    by: Entrywise,
) -> dict[str, Tensor]:
    """Each layer loses its own k (Frankle & Carbin 2019, section 2; Tan & Motani 2020's layer-wise variants).

    With shares by the layers' shapes (erk) the counts differ, and nothing else.
    """
    pruned: dict[str, Tensor] = {}
    for name, count in counts.items():
        pruned |= prune_smallest({name: scores[name]}, {name: kept[name]}, count, generator, by)
    return pruned


def globally(
    scores: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    counts: Mapping[str, int],
    budget: Budget,
    generator: torch.Generator,
    by: Entrywise,
) -> dict[str, Tensor]:
    """The network loses k, wherever they are (Frankle & Carbin 2019, section 4; Tan & Motani 2020, section 3.3)."""
    floors = {name: budget.floor_of(name) for name in kept}
    return prune_smallest_above_floors(scores, kept, sum(counts.values()), floors, generator, by)


def by_row(
    scores: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    counts: Mapping[str, int],
    budget: Budget,
    generator: torch.Generator,
    by: Entrywise,
) -> dict[str, Tensor]:
    """Each output row of a layer loses the same k (Sun et al. 2024, section 3, comparison group per output)."""
    pruned = {}
    for name, count in counts.items():
        rows = budget.num_rows(name)
        shaped = by(scores[name]).reshape(rows, -1), kept[name].view(rows, -1)
        pruned[name] = prune_smallest_of_rows(*shaped, count // rows, generator).view_as(kept[name])
    return pruned


def n_of_m(
    scores: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    counts: Mapping[str, int],
    budget: Budget,
    generator: torch.Generator,
    by: Entrywise,
) -> dict[str, Tensor]:
    """Of every m weights that are neighbours along the inputs, n stay (Mishra et al. 2021; Zhou et al. 2021)."""
    n, m = N_OF_M[budget.recipe.granularity]
    pruned = {}
    for name, mask in kept.items():
        done = prune_smallest_of_rows(_groups(by(scores[name]), m), _groups(mask, m), m - n, generator)
        pruned[name] = _ungrouped(done, mask)
    return pruned


def _groups(tensor: Tensor, m: int) -> Tensor:
    """(out, in, ...) -> (groups, m): the inputs of one position are neighbours."""
    return tensor.movedim(1, -1).reshape(-1, m)


def _ungrouped(groups: Tensor, like: Tensor) -> Tensor:
    return groups.view(like.movedim(1, -1).shape).movedim(-1, 1).contiguous()


def shuffled(kept: Mapping[str, Tensor], budget: Budget, generator: torch.Generator) -> dict[str, Tensor]:
    """As many of each layer at random positions; of each row or group of m, where the recipe counts by those."""
    return {name: _shuffled(mask, name, budget, generator) for name, mask in kept.items()}


def _shuffled(mask: Tensor, name: str, budget: Budget, generator: torch.Generator) -> Tensor:
    if budget.recipe.granularity in N_OF_M:
        groups = _groups(mask, N_OF_M[budget.recipe.granularity][1])
        return _ungrouped(_shuffled_rows(groups, generator), mask)
    if budget.recipe.scope.kind == "row":
        return _shuffled_rows(mask.view(budget.num_rows(name), -1), generator).view_as(mask)
    return mask.flatten()[torch.randperm(mask.numel(), generator=generator)].view_as(mask)


def _shuffled_rows(mask: Tensor, generator: torch.Generator) -> Tensor:
    return mask.gather(1, torch.rand(mask.shape, generator=generator).argsort(1))


def count_kept(kept: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: int(mask.count_nonzero()) for name, mask in kept.items()}


SCOPES: dict[str, Scope] = {"layerwise": layerwise, "global": globally, "row": by_row, "erk": layerwise}


def scope_of(budget: Budget) -> Scope:
    return n_of_m if budget.recipe.granularity in N_OF_M else SCOPES[budget.recipe.scope.kind]
