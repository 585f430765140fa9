"""Where scores compete: within each layer, or over the whole network. Either way exactly k go."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pruning.masks import prune_smallest, prune_smallest_above_floors
from pruning.recipe import LayerOverride, Recipe
from pruning.schedules import count_globally, counts_by_layer, floor_of

Scope = Callable[
    [Mapping[str, Tensor], Mapping[str, Tensor], Recipe, Mapping[str, LayerOverride], torch.Generator],
    dict[str, Tensor],
]
"""(scores, kept, recipe, overrides, generator for ties) -> kept after the round's pruning."""


def layerwise(
    scores: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    recipe: Recipe,
    overrides: Mapping[str, LayerOverride],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Each layer loses its own k (Frankle & Carbin 2019, section 2; Tan & Motani 2020's layer-wise variants)."""
    pruned: dict[str, Tensor] = {}
    for name, count in counts_by_layer(count_kept(kept), recipe, overrides).items():
        pruned |= prune_smallest({name: scores[name]}, {name: kept[name]}, count, generator)
    return pruned


def globally(
    scores: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    recipe: Recipe,
    overrides: Mapping[str, LayerOverride],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """The network loses k, wherever they are (Frankle & Carbin 2019, section 4; Tan & Motani 2020, section 3.3)."""
    count = count_globally(count_kept(kept), recipe, overrides)
    floors = {name: floor_of(name, recipe, overrides) for name in kept}
    return prune_smallest_above_floors(scores, kept, count, floors, generator)


def count_kept(kept: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in kept.items()}


SCOPES: dict[str, Scope] = {"layerwise": layerwise, "global": globally}
