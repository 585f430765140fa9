"""What competes: single weights under their layers' names, or units under their groups' names.

Both granularities look the same to a scope: {name: kept (bool)} and {name: scores} of one shape, under the names that a
recipe's overrides use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruning.graph import find_layers, trace_with_shapes
from pruning.masks import Masks
from pruning.recipe import LayerOverride, Recipe
from pruning.schedules import LayerSize, plan, resolve_overrides
from pruning.unit_flow import find_units
from pruning.units import UnitGroup, masks_to_unit_masks, unit_masks_to_masks, unit_scores


@dataclass(frozen=True)
class Weights:
    """Single weights compete. `layers`: layer -> the name of its weight; `parameters`: those of the model, by name."""

    sizes: list[LayerSize]
    overrides: dict[str, LayerOverride]
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


@dataclass(frozen=True)
class Units:
    """Neurons and filters compete. `parameters`: those of the model, by name."""

    sizes: list[LayerSize]
    overrides: dict[str, LayerOverride]
    parameters: dict[str, nn.Parameter]
    groups: Sequence[UnitGroup]

    def everything(self) -> Masks:
        return self.masks({group.name: torch.ones(group.size, dtype=torch.bool) for group in self.groups})

    def kept(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return masks_to_unit_masks(masks, self.groups)

    def masks(self, kept: Mapping[str, Tensor]) -> Masks:
        return unit_masks_to_masks(kept, self.groups, self.parameters)

    def scores(self, scores: Mapping[str, Tensor], criterion: str) -> dict[str, Tensor]:
        return unit_scores(scores, self.groups, criterion)


def what_competes(model: nn.Module, example: Tensor, recipe: Recipe) -> Weights | Units:
    """What `recipe` prunes of `model`, without the layers that it ignores.

    Args:
        example: (2 or more, ...) inputs, as the model takes them.

    Raises:
        UntraceableError: the model cannot be followed as a graph.
        RecipeRefused: an override names no layer, or the target is out of reach.
    """
    parameters = dict(model.named_parameters())
    if recipe.granularity == "weight":
        found = [layer for layer in find_layers(model, trace_with_shapes(model, example)) if not layer.is_tied]
        sizes = [LayerSize(layer.name, layer.module.weight.numel(), layer.is_output) for layer in found]
        sizes, overrides = _without_ignored(sizes, recipe)
        layers = {layer.name: layer.weight for layer in found if not overrides[layer.name].ignore}
        return Weights(sizes, overrides, parameters, layers)
    groups, _ = find_units(model, example)
    sizes, overrides = _without_ignored([LayerSize(group.name, group.size) for group in groups], recipe)
    return Units(sizes, overrides, parameters, [group for group in groups if not overrides[group.name].ignore])


def _without_ignored(sizes: list[LayerSize], recipe: Recipe) -> tuple[list[LayerSize], dict[str, LayerOverride]]:
    plan(sizes, recipe)  # refuses what no training could reach
    overrides = resolve_overrides(recipe.scope, sizes)
    return [size for size in sizes if not overrides[size.name].ignore], overrides
