"""Masks: which weights are kept, and exactly which k go next.

`Masks` maps parameter names, as in the state dict, to bool tensors of the parameter's shape; True is kept. A mask is
stored, never derived from `weight != 0`: a kept weight may be exactly zero. Masks lie on the CPU, where the exact
selection counts them (its operations have no deterministic kernels elsewhere); training takes copies to its device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

Masks = dict[str, Tensor]

Entrywise = Callable[[Tensor], Tensor]
"""Scores -> a new tensor, what they are compared by, as `sorted` has its `key`: made of a chunk where it is looked at,
so that nobody copies all weights for their absolute values."""

_CHUNK = 1 << 16
"""Entries looked at together: a few of these stay in the cache, and are all the extra memory besides the masks."""


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
    scores: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    count: int,
    generator: torch.Generator,
    by: Entrywise = torch.clone,
) -> dict[str, Tensor]:
    """`kept` without exactly `count` of its entries: those of least score, over all tensors together.

    Only entries that `kept` still holds compete. Entries that tie at the threshold are drawn from `generator`, not
    taken by position. Scores compare as float32.

    Args:
        scores: per name, one score for each entry of `kept[name]`.
        kept: per name, a bool tensor.
        count: entries to prune, 0 or more.
        by: what the scores are compared by.

    Raises:
        ValueError: fewer than `count` entries are kept, or a kept entry's score is NaN.
    """
    available = sum(int(mask.count_nonzero()) for mask in kept.values())
    if not 0 <= count <= available:
        raise ValueError(f"cannot prune {count} of the {available} entries that are kept")
    if count == 0:
        return {name: mask.clone() for name, mask in kept.items()}

    threshold, num_below, num_ties = _kth_smallest(scores, kept, count, available, by)
    falls = torch.zeros(num_ties, dtype=torch.bool)
    falls[torch.randperm(num_ties, generator=generator)[: count - num_below]] = True
    all_fall = num_ties == count - num_below

    pruned = {name: torch.empty(mask.shape, dtype=torch.bool) for name, mask in kept.items()}
    for name, mask in kept.items():
        for part, held, stays in _chunks(scores[name], mask, pruned[name]):
            values = by(part.float())
            torch.gt(values, threshold, out=stays).logical_and_(held)
            if not all_fall:
                ties = (values == threshold).logical_and_(held)
                num_here = int(ties.count_nonzero())
                if num_here:
                    stays[ties] = ~falls[:num_here]
                    falls = falls[num_here:]
    return pruned


def prune_smallest_above_floors(
    scores: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    count: int,
    floors: Mapping[str, int],
    generator: torch.Generator,
    by: Entrywise = torch.clone,
) -> dict[str, Tensor]:
    """`prune_smallest`, where `floors[name]` entries of each tensor always stay: still exactly `count` go."""
    pruned = prune_smallest(scores, kept, count, generator, by)
    starved = [name for name, mask in pruned.items() if int(mask.count_nonzero()) < floors[name]]
    if not starved:
        return pruned
    # A starved tensor keeps its best; what it may not lose falls on the others, some of which may starve by that.
    for name in starved:
        can_go = int(kept[name].count_nonzero()) - floors[name]
        pruned |= prune_smallest({name: scores[name]}, {name: kept[name]}, can_go, generator, by)
        count -= can_go
    others = {name: mask for name, mask in kept.items() if name not in starved}
    return pruned | prune_smallest_above_floors(scores, others, count, floors, generator, by)


def prune_smallest_of_rows(scores: Tensor, kept: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`kept` (rows, columns) without exactly `count` entries of each row: those of least score, ties as drawn.

    Raises:
        ValueError: a row keeps fewer than `count` entries, or a kept entry's score is NaN.
    """
    if count == 0:
        return kept.clone()
    if int(kept.sum(1).min()) < count or bool(scores[kept].isnan().any()):
        raise ValueError(f"cannot prune {count} of every row: a row keeps fewer, or a score is not a number")
    # A stable sort of randomly ordered columns: what ties falls by the draw, not by position.
    order = torch.rand(scores.shape, generator=generator).argsort(1)
    # Pruned entries come last, behind kept ones that are infinite.
    values = scores.float().clamp(max=torch.finfo(torch.float32).max).masked_fill(~kept, math.inf).gather(1, order)
    falls = order.gather(1, values.argsort(dim=1, stable=True)[:, :count])
    return kept.scatter(1, falls, False)


def _kth_smallest(
    scores: Mapping[str, Tensor], kept: Mapping[str, Tensor], k: int, available: int, by: Entrywise
) -> tuple[float, int, int]:
    """(the k-th smallest kept score, how many are below it, how many equal it).

    Radix select: a histogram of the keys' upper halves finds the one bin that holds the k-th, and only that bin's keys
    are gathered. Nothing of the size of all weights is concatenated or sorted.
    """
    histogram = torch.zeros(1 << 16, dtype=torch.int64)
    not_negative = histogram[1 << 15 :]
    for keys in _keys(scores, kept, by):
        upper = keys >> 16
        if int(upper.min()) >= 0:  # magnitudes; their half of the bins stays in the cache
            not_negative += torch.bincount(upper, minlength=1 << 15)
        else:
            histogram += torch.bincount(upper + (1 << 15), minlength=1 << 16)
    cumulative = histogram.cumsum(0)
    bin_ = int(torch.searchsorted(cumulative, k))
    num_below = int(cumulative[bin_] - histogram[bin_])

    candidates = torch.cat([keys[(keys >> 16) == bin_ - (1 << 15)] for keys in _keys(scores, kept, by)])
    key = candidates.kthvalue(k - num_below).values
    num_below += int((candidates < key).count_nonzero())
    # Pruned entries have infinity's key: they are never below, and tie with nothing that leaves kept ones above.
    num_ties = min(int((candidates == key).count_nonzero()), available - num_below)
    return float(_mirrored(key).view(torch.float32)), num_below, num_ties


def _keys(scores: Mapping[str, Tensor], kept: Mapping[str, Tensor], by: Entrywise) -> Iterator[Tensor]:
    """int32 keys in the order of the float32 scores, chunk by chunk; both zeros have one key, pruned entries the last.

    Raises:
        ValueError: a kept entry's score is NaN.
    """
    for name, mask in kept.items():
        for part, held in _chunks(scores[name], mask):
            # The sum makes +0.0 of -0.0, and of what is denormal where those are flushed.
            values = by(part.float()).add_(0.0)
            if int(held.count_nonzero()) < len(held):
                values.masked_fill_(~held, math.inf)
            least = float(values.aminmax().min)
            if math.isnan(least):
                raise ValueError(f"the scores of {name} are not all numbers")
            bits = values.view(torch.int32)
            yield bits if least >= 0 else _mirrored(bits)


def _mirrored(bits: Tensor) -> Tensor:
    """A float32's bits as an int32 in the order of the floats, and back: those of negative numbers run backwards."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Flat views of the same entries of each tensor."""
    return zip(*(torch.split(tensor.detach().flatten(), _CHUNK) for tensor in tensors), strict=True)
