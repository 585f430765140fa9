"""What competes: single weights under their layers' names, or units under their groups' names.

Both granularities look the same to a scope: {name: kept (bool)} and {name: scores} of one shape, under the names that a
recipe's overrides use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from pruning.budgets import Budget, LayerSize
from pruning.graph import Layer, find_layers, trace_with_shapes
from pruning.masks import Entrywise, Masks
from pruning.recipe import Recipe
from pruning.schedules import plan
from pruning.unit_blocks import anchored, lasting, least_units
from pruning.unit_flow import find_units
from pruning.units import UnitGroup, masks_to_unit_masks, unit_masks_to_masks, unit_scores


@dataclass(frozen=True)
class Weights:
    """Single weights compete. `layers`: layer -> the name of its weight; `parameters`: those of the model, by name."""

    budget: Budget
    parameters: dict[str, nn.Parameter]
    layers: dict[str, str]
    groups: Sequence[UnitGroup] = ()

    def everything(self) -> Masks:
        return {name: torch.ones(self.parameters[name].shape, dtype=torch.bool) for name in self.layers.values()}

    def kept(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {layer: masks[weight] for layer, weight in self.layers.items()}

    def masks(self, kept: Mapping[str, Tensor]) -> Masks:
        return {weight: kept[layer] for layer, weight in self.layers.items()}

    def scores(self, scores: Mapping[str, Tensor], criterion: str) -> dict[str, Tensor]:  # noqa: ARG002
        return {layer: scores[weight] for layer, weight in self.layers.items()}

    def anchored(
        self,
        scores: Mapping[str, Tensor],
        kept: Mapping[str, Tensor],  # noqa: ARG002
        ties: torch.Generator,  # noqa: ARG002
        by: Entrywise,
    ) -> tuple[dict[str, Tensor], Entrywise]:
        return dict(scores), by


@dataclass(frozen=True)
class Units:
    """Neurons and filters compete. `parameters`: those of the model, by name."""

    budget: Budget
    parameters: dict[str, nn.Parameter]
    groups: Sequence[UnitGroup]

    @cached_property
    def _lasting(self) -> dict[str, Tensor]:
        return lasting(self.groups, self.parameters)

    def everything(self) -> Masks:
        return self.masks({group.name: torch.ones(group.size, dtype=torch.bool) for group in self.groups})

    def kept(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return masks_to_unit_masks(masks, self.groups)

    def masks(self, kept: Mapping[str, Tensor]) -> Masks:
        return unit_masks_to_masks(kept, self.groups, self.parameters)

    def scores(self, scores: Mapping[str, Tensor], criterion: str) -> dict[str, Tensor]:
        return unit_scores(scores, self.groups, criterion)

    def anchored(
        self, scores: Mapping[str, Tensor], kept: Mapping[str, Tensor], ties: torch.Generator, by: Entrywise
    ) -> tuple[dict[str, Tensor], Entrywise]:
        """What the scores compare by, infinite for units without which a group of a grouped convolution would be empty;
        and by what it compares itself."""
        compared = {name: by(score) for name, score in scores.items()}
        held = {name: anchored(compared[name], kept[name], sets, ties) for name, sets in self._lasting.items()}
        return compared | held, torch.clone


def what_competes(model: nn.Module, example: Tensor, recipe: Recipe) -> Weights | Units:
    """What `recipe` prunes of `model`, without the layers that it ignores.

    Args:
        example: (2 or more, ...) inputs, as the model takes them.

    Raises:
        UntraceableError: the model cannot be followed as a graph.
        RecipeRefused: an override names no layer, or the target is out of reach.
    """
    parameters = dict(model.named_parameters())
    if recipe.granularity != "unit":
        found = [layer for layer in find_layers(model, trace_with_shapes(model, example)) if not layer.is_tied]
        budget = _budget(recipe, [_size_of(layer) for layer in found])
        return Weights(budget, parameters, {layer.name: layer.weight for layer in found if layer.name in budget.layers})
    groups, _ = find_units(model, example)
    least = least_units(groups, parameters)
    budget = _budget(recipe, [LayerSize(group.name, group.size, least=least[group.name]) for group in groups])
    return Units(budget, parameters, [group for group in groups if group.name in budget.layers])


def _size_of(layer: Layer) -> LayerSize:
    weight = layer.module.weight
    return LayerSize(layer.name, weight.numel(), layer.is_output, tuple(weight.shape))


def _budget(recipe: Recipe, sizes: list[LayerSize]) -> Budget:
    plan(sizes, recipe)  # refuses what no training could reach
    return Budget.of(recipe, sizes)
