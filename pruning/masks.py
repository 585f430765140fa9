"""Masks: which weights are kept, and exactly which k go next.

`Masks` maps parameter names, as in the state dict, to bool tensors of the parameter's shape; True is kept. A mask is
stored, never derived from `weight != 0`: a kept weight may be exactly zero. Masks lie on the CPU, where the exact
selection counts them (its operations have no deterministic kernels elsewhere); training takes copies to its device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

Masks = dict[str, Tensor]

_CHUNK = 1 << 20
"""Entries looked at together, which bounds the extra memory of a selection over any number of weights."""


class MaskError(ValueError):
    """A mask that grew or that cuts the network; the message names the parameter."""


def apply_masks(parameters: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Set every masked entry to exactly +0.0, in place."""
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].masked_fill_(~mask.to(parameters[name].device), 0.0)


def check_masks(masks: Mapping[str, Tensor], previous: Mapping[str, Tensor]) -> None:
    """Masks only shrink, and no layer loses everything.

    Raises:
        MaskError: one of the two does not hold.
    """
    for name, mask in masks.items():
        if bool((mask & ~previous[name]).any()):
            raise MaskError(f"the mask of {name} revives weights that were pruned before")
        if not bool(mask.any()):
            raise MaskError(f"the mask of {name} keeps nothing, which disconnects the network")


def prune_smallest(
    scores: Mapping[str, Tensor], kept: Mapping[str, Tensor], count: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """`kept` without exactly `count` of its entries: those of least score, over all tensors together.

    Only entries that `kept` still holds compete. Entries that tie at the threshold are drawn from `generator`, not
    taken by position. Scores compare as float32.

    Args:
        scores: per name, one score for each entry of `kept[name]`.
        kept: per name, a bool tensor.
        count: entries to prune, 0 or more.

    Raises:
        ValueError: fewer than `count` entries are kept, or a kept entry's score is NaN.
    """
    available = sum(int(mask.sum()) for mask in kept.values())
    if not 0 <= count <= available:
        raise ValueError(f"cannot prune {count} of the {available} entries that are kept")
    if count == 0:
        return {name: mask.clone() for name, mask in kept.items()}

    threshold, num_below, num_ties = _kth_smallest(scores, kept, count)
    falls = torch.zeros(num_ties, dtype=torch.bool)
    falls[torch.randperm(num_ties, generator=generator)[: count - num_below]] = True

    pruned = {}
    for name, mask in kept.items():
        keys = _keys(scores[name])
        ties = mask & (keys == threshold)
        pruned[name] = mask & (keys > threshold)
        num_here = int(ties.sum())
        pruned[name][ties] = ~falls[:num_here]
        falls = falls[num_here:]
    return pruned


def prune_smallest_above_floors(
    scores: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    count: int,
    floors: Mapping[str, int],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """`prune_smallest`, where `floors[name]` entries of each tensor always stay: still exactly `count` go."""
    pruned = prune_smallest(scores, kept, count, generator)
    starved = [name for name, mask in pruned.items() if int(mask.sum()) < floors[name]]
    if not starved:
        return pruned
    # A starved tensor keeps its best; what it may not lose falls on the others, some of which may starve by that.
    for name in starved:
        can_go = int(kept[name].sum()) - floors[name]
        pruned |= prune_smallest({name: scores[name]}, {name: kept[name]}, can_go, generator)
        count -= can_go
    others = {name: mask for name, mask in kept.items() if name not in starved}
    return pruned | prune_smallest_above_floors(scores, others, count, floors, generator)


def _kth_smallest(scores: Mapping[str, Tensor], kept: Mapping[str, Tensor], k: int) -> tuple[int, int, int]:
    """(the key of the k-th smallest kept score, how many are below it, how many equal it).

    Radix select: a histogram of the keys' upper halves finds the one bin that holds the k-th, and only that bin's keys
    are gathered. Nothing of the size of all weights is concatenated or sorted.
    """
    histogram = torch.zeros(1 << 16, dtype=torch.int64)
    for keys in _kept_keys(scores, kept):
        histogram += torch.bincount((keys >> 16) + (1 << 15), minlength=1 << 16)
    cumulative = histogram.cumsum(0)
    bin_ = int(torch.searchsorted(cumulative, k))
    num_below = int(cumulative[bin_] - histogram[bin_])

    candidates = torch.cat([keys[(keys >> 16) + (1 << 15) == bin_] for keys in _kept_keys(scores, kept)])
    key = int(candidates.kthvalue(k - num_below).values)
    return key, num_below + int((candidates < key).sum()), int((candidates == key).sum())


def _kept_keys(scores: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> Iterator[Tensor]:
    for name, mask in kept.items():
        for part, held in zip(
            torch.split(scores[name].flatten(), _CHUNK), torch.split(mask.flatten(), _CHUNK), strict=True
        ):
            values = part[held]
            if bool(values.isnan().any()):
                raise ValueError(f"the scores of {name} are not all numbers")
            yield _keys(values)


def _keys(scores: Tensor) -> Tensor:
    """int32 keys in the order of the float32 scores; both zeros have one key."""
    bits = (scores.detach().float() + 0.0).view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
