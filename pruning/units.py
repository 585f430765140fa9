"""Neurons and filters: which tensors share a unit.

One walk over the graph follows the units of every layer through normalisation, activation, pooling and flattening to
the layers that consume them. Layers whose outputs are added have their units in common (residual connections) and form
one group. What cannot be followed is not guessed: its layers are not prunable by unit, with the reason.

A group's slices are all that belongs to its units: incoming weights, biases, the normalisation's scale and shift, and
outgoing weights. With them masked, a unit reaches nobody (after ReLU and its like it emits exactly zero), and cutting
the same slices out is the physical removal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pruning.masks import Masks


@dataclass(frozen=True)
class Slice:
    """Unit u owns indices [u * span, (u + 1) * span) of dimension `dim` of the tensor called `name`.

    Behind a flatten, a channel spans its height * width columns.
    """

    name: str
    dim: int
    span: int = 1


@dataclass(frozen=True)
class UnitGroup:
    """Units that several layers may have in common.

    Attributes:
        name: the path of its first layer.
        layers: paths of all layers that compute the units.
        incoming: those layers' weights, dimension 0.
        slices: every parameter that belongs to the units, `incoming` among them.
        activations: the graph's nodes where the units are active: after the activation, before pooling.
    """

    name: str
    size: int
    layers: tuple[str, ...]
    incoming: tuple[Slice, ...]
    slices: tuple[Slice, ...]
    activations: tuple[Slice, ...]


def unit_masks_to_masks(
    unit_masks: Mapping[str, Tensor], groups: Sequence[UnitGroup], parameters: Mapping[str, Tensor]
) -> Masks:
    """{group: (size,) bool} -> masks of all parameters that the groups' units own."""
    masks: Masks = {}
    for group in groups:
        for slice_ in group.slices:
            shape = parameters[slice_.name].shape
            mask = masks.setdefault(slice_.name, torch.ones(shape, dtype=torch.bool))
            kept = unit_masks[group.name].repeat_interleave(slice_.span)
            mask &= kept.view([-1 if dim == slice_.dim else 1 for dim in range(len(shape))])
    return masks


def masks_to_unit_masks(masks: Mapping[str, Tensor], groups: Sequence[UnitGroup]) -> dict[str, Tensor]:
    """The inverse: a unit is kept where any of its incoming weights is, since no layer is ever empty."""
    return {group.name: masks[group.incoming[0].name].flatten(1).any(1) for group in groups}


def l2_norm(weight_scores: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(weight_scores.flatten(1), dim=1)
    return norms


def total(weight_scores: Tensor) -> Tensor:
    return weight_scores.flatten(1).sum(1)


def unit_scores(scores: Mapping[str, Tensor], groups: Sequence[UnitGroup], criterion: str) -> dict[str, Tensor]:
    """One score a unit: as the criterion gave it, or reduced over its incoming weights and summed over its layers."""
    reduce = l2_norm if criterion == "magnitude" else total
    return {
        group.name: scores[group.name]
        if group.name in scores
        else torch.stack([reduce(scores[weight.name]) for weight in group.incoming]).sum(0)
        for group in groups
    }


def kept_units(unit_masks: Mapping[str, Tensor], groups: Sequence[UnitGroup]) -> dict[str, list[int]]:
    """Indices of the kept units, per layer."""
    return {layer: unit_masks[group.name].nonzero().flatten().tolist() for group in groups for layer in group.layers}
