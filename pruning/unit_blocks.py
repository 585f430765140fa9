"""The groups of grouped convolutions: which units stand in them, and that none of them ever loses its last.

They are called blocks here, since groups are those of units. A block without a live input, or without a live filter,
computes nothing; so some units always stay, those of best score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pruning.units import UnitGroup


@dataclass
class Blocks:
    """The inputs, or the filters, of a grouped convolution.

    Attributes:
        fixed: (blocks,) indices in each block that belong to no unit, and always stay.
        owned: by group of units, (blocks, units): how many indices of the block belong to the unit.
    """

    fixed: Tensor
    owned: dict[str, Tensor] = field(default_factory=dict)


def find_blocks(groups: Sequence[UnitGroup], parameters: Mapping[str, Tensor]) -> list[Blocks]:
    """Of every grouped convolution that units of `groups` enter or leave."""
    found: dict[tuple[str, int], Blocks] = {}
    for group in groups:
        for part in group.slices:
            if part.blocks == 1:
                continue
            width = part.length(parameters[part.name].shape) // part.blocks
            blocks = found.setdefault((part.name, part.dim), Blocks(torch.full((part.blocks,), width)))
            units = torch.arange(group.size).repeat_interleave(part.span)
            block = torch.arange(part.offset, part.offset + len(units)) // width
            owned = torch.zeros(part.blocks, group.size, dtype=torch.int64)
            owned.index_put_((block, units), torch.ones_like(units), accumulate=True)
            # A tensor may stand twice in a concatenation: its units then own indices in two places.
            blocks.owned[group.name] = blocks.owned.get(group.name, 0) + owned
            blocks.fixed -= owned.sum(1)
    return list(found.values())


def lasting(groups: Sequence[UnitGroup], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """{group of units: (sets, units) bool}: the sets of units of which one must stay, where there are such.

    A block that several groups of units share is the first one's. A set that holds another says nothing of its own.
    """
    sets: dict[str, list[Tensor]] = {}
    for blocks in find_blocks(groups, parameters):
        free = blocks.fixed == 0
        for name, owned in blocks.owned.items():
            mine = (owned > 0) & free.unsqueeze(1)
            free &= ~mine.any(1)
            sets.setdefault(name, []).extend(mine[mine.any(1)])
    return {name: _smallest(torch.stack(found)) for name, found in sets.items() if found}


def _smallest(sets: Tensor) -> Tensor:
    sets = torch.unique(sets, dim=0)
    inside = sets.float()
    holds = (1 - inside) @ inside.T == 0  # [i, j]: nothing of set j lies outside set i
    return sets[holds.sum(1) == 1]  # itself


def least_units(groups: Sequence[UnitGroup], parameters: Mapping[str, Tensor]) -> dict[str, int]:
    """{group of units: how many of its units always stay}: enough for one of each set of `lasting`, 1 at least."""
    sets = lasting(groups, parameters)
    return {group.name: min(group.size, len(sets.get(group.name, [()]))) for group in groups}


def anchored(scores: Tensor, kept: Tensor, sets: Tensor, generator: torch.Generator) -> Tensor:
    """The scores, infinite for kept units of which every set has one: the best, ties as drawn. At most one a set.

    Args:
        scores: (units,).
        kept: (units,) bool; a set without any of them stays without.
        sets: (sets, units) bool, of `lasting`.
    """
    order = torch.randperm(len(scores), generator=generator)
    order = order[scores[order].argsort(descending=True, stable=True)]
    missing, anchors = (sets & kept).any(1), torch.zeros_like(kept)
    for unit in order[kept[order]].tolist():
        if not bool(missing.any()):
            break
        if bool((sets[:, unit] & missing).any()):
            anchors[unit] = True
            missing &= ~sets[:, unit]
    return scores.masked_fill(anchors, torch.inf)
