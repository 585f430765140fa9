"""Neurons and filters: which tensors share a unit.

One walk over the graph follows the units of every layer through normalisation, activation, pooling and flattening to
the layers that consume them. Layers whose outputs are added have their units in common (residual connections) and form
one group. What cannot be followed is not guessed: its layers are not prunable by unit, with the reason.

A group's slices are all that belongs to its units: incoming weights, biases, the normalisation's scale and shift, the
filters of depthwise convolutions, and outgoing weights. With them masked, a unit emits f(0), exactly zero after ReLU
and its like, and reaches nobody whatever it emits; so cutting the same slices out changes nothing, and no constant has
to be folded into the next bias (`pruning/removal.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pruning.masks import Masks


@dataclass(frozen=True)
class Slice:
    """Unit u owns indices [offset + u * span, offset + (u + 1) * span) of dimension `dim` of the tensor called `name`.

    Behind a flatten, a channel spans its height * width columns; in a depthwise convolution, all filters of its own;
    behind a concatenation, it is offset by what it was put after.

    The weight (filters, inputs / blocks, ...) of a grouped convolution holds `blocks` blocks of filters, each of which
    sees inputs of its own. Dimension 1 of it counts all inputs, block after block; so does dimension 0 the filters.
    """

    name: str
    dim: int
    span: int = 1
    offset: int = 0
    blocks: int = 1

    def length(self, shape: Sequence[int]) -> int:
        """The indices of dimension `dim` of the tensor called `name`, given its shape."""
        return shape[1] * self.blocks if self.dim == 1 else shape[self.dim]

    def spread(self, kept: Tensor, size: int) -> Tensor:
        """(units,) bool -> (size,): is the unit of each index of the dimension kept? True where it has none."""
        owned = kept.repeat_interleave(self.span)
        spread = torch.ones(size, dtype=torch.bool)
        spread[self.offset : self.offset + len(owned)] = owned
        return spread

    def owned(self, tensor: Tensor, num_units: int) -> Tensor:
        """The part of the tensor called `name` that belongs to the units; a view."""
        return tensor.narrow(self.dim, self.offset, num_units * self.span)

    def per_unit(self, tensor: Tensor, num_units: int) -> Tensor:
        """The tensor called `name` -> (units, entries that the unit owns of it)."""
        if self.dim == 1 and self.blocks > 1:  # (blocks * filters, inputs, ...) -> (filters, blocks * inputs, ...)
            tensor = tensor.reshape(self.blocks, -1, *tensor.shape[1:]).transpose(0, 1).flatten(1, 2)
        return self.owned(tensor, num_units).movedim(self.dim, 0).reshape(num_units, -1)

    def mask(self, mask: Tensor, kept: Tensor) -> None:
        """Take from `mask`, of the tensor called `name`, what belongs to units that are not `kept`; in place."""
        spread = self.spread(kept, self.length(mask.shape))
        if self.dim == 1:
            mask, spread = mask.view(self.blocks, -1, *mask.shape[1:]), spread.view(self.blocks, 1, -1)
        else:
            spread = spread.view(*[1] * self.dim, -1)
        mask &= spread.view(*spread.shape, *[1] * (mask.dim() - spread.dim()))


@dataclass(frozen=True)
class UnitGroup:
    """Units that several layers may have in common.

    Attributes:
        name: the path of its first layer.
        layers: paths of all layers that compute the units.
        incoming: those layers' weights, dimension 0.
        slices: every parameter that belongs to the units, `incoming` among them.
        activations: the graph's nodes where the units are active: after the activation, before pooling; behind a
            concatenation, the part of the node that is theirs.
        outgoing: those of `slices` through which the units reach the next layers, dimension 1 of their weights.
        buffers: what belongs to the units and is no parameter: the normalisation's running statistics.
        keeps_zero: whether units whose own parameters are zero emit zero.
    """

    name: str
    size: int
    layers: tuple[str, ...]
    incoming: tuple[Slice, ...]
    slices: tuple[Slice, ...]
    activations: tuple[Slice, ...]
    outgoing: tuple[Slice, ...] = ()
    buffers: tuple[Slice, ...] = ()
    keeps_zero: bool = True


def unit_masks_to_masks(
    unit_masks: Mapping[str, Tensor], groups: Sequence[UnitGroup], parameters: Mapping[str, Tensor]
) -> Masks:
    """{group: (size,) bool} -> masks of all parameters that the groups' units own."""
    masks: Masks = {}
    for group in groups:
        for slice_ in group.slices:
            mask = masks.setdefault(slice_.name, torch.ones(parameters[slice_.name].shape, dtype=torch.bool))
            slice_.mask(mask, unit_masks[group.name])
    return masks


def masks_to_unit_masks(masks: Mapping[str, Tensor], groups: Sequence[UnitGroup]) -> dict[str, Tensor]:
    """The inverse: a unit is kept where any of its incoming weights is, since no layer is ever empty.

    A block of a grouped convolution can be, where all of the few inputs that it sees are masked. Its filters are kept
    where anything of theirs is; one without anything left, such as a bias, counts as masked, which it amounts to.
    """
    return {group.name: _kept(masks, group) for group in groups}


def _kept(masks: Mapping[str, Tensor], group: UnitGroup) -> Tensor:
    telling = [part for part in group.incoming if part.blocks == 1][:1] or group.slices
    return torch.stack([part.per_unit(masks[part.name], group.size).any(1) for part in telling]).any(0)


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
