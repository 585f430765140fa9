"""Which units stay, so that every layer has widths that it can have.

The groups of a grouped convolution lie in one tensor, so all of them see equally many inputs and have equally many
filters. Masks ask for no such thing. Where they leave one group more than another, masked units stay in the other: they
are held at zero, so that the function is the same, and fewer units go than are masked. Widths that are multiples of a
number are met in the same way. One unit may stand in several such convolutions (residual sums); units only ever come
back, and with all of them every width fits, so it ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pruning.unit_blocks import Blocks, find_blocks
from pruning.units import UnitGroup

Kept = dict[str, Tensor]
"""{group of units: (units,) bool}"""


def widths_that_fit(
    alive: Mapping[str, Tensor], groups: Sequence[UnitGroup], parameters: Mapping[str, Tensor], round_to: int = 1
) -> Kept:
    """{group: (units,) bool}: the units of `alive`, and as many more as widths need. Each group keeps one at least.

    Not always the fewest: which unit comes back is chosen one by one, by what all grouped convolutions lack just then.

    Args:
        alive: {group: (units,) bool}.
        round_to: 1 or more; widths are multiples of it, or whole where none fits that is less.
    """
    all_blocks = find_blocks(groups, parameters)
    kept = {name: _rounded(mask, round_to) for name, mask in alive.items()}
    in_blocks = {name for blocks in all_blocks for name in blocks.owned}
    kept |= {name: alive[name].clone() for name in in_blocks}
    _even_out(kept, all_blocks)
    while odd := [name for name in kept if name in in_blocks and not _is_width(kept[name], round_to)]:
        for name in odd:
            while not _is_width(kept[name], round_to):
                # One only: with it, evening out brings others of the same units back.
                _revive(kept, name, all_blocks)
                _even_out(kept, all_blocks)
    return kept


def _rounded(mask: Tensor, round_to: int) -> Tensor:
    """With the first masked units back, as many as make a multiple, or as there are."""
    width = int(mask.sum())
    wanted = -(-max(1, width) // round_to) * round_to
    mask = mask.clone()
    mask[(~mask).nonzero().flatten()[: wanted - width]] = True
    return mask


def _is_width(mask: Tensor, round_to: int) -> bool:
    width = int(mask.sum())
    return width == len(mask) or (width > 0 and width % round_to == 0)


def _missing(blocks: Blocks, kept: Kept) -> Tensor:
    """(blocks,): how many more indices each needs to be as wide as the widest; one at least stays in each."""
    widths = blocks.fixed.clone()
    for name, owned in blocks.owned.items():
        widths += owned[:, kept[name]].sum(1)
    return widths.max().clamp(min=1) - widths


def _even_out(kept: Kept, all_blocks: Sequence[Blocks]) -> None:
    """Bring units back until each convolution's groups are alike; in place."""
    while uneven := [blocks for blocks in all_blocks if bool(_missing(blocks, kept).any())]:
        for blocks in uneven:
            while bool((missing := _missing(blocks, kept)).any()):
                lacking = int(missing.argmax())
                candidates = {name: (owned[lacking] > 0) & ~kept[name] for name, owned in blocks.owned.items()}
                name = next(name for name, mask in candidates.items() if bool(mask.any()))
                _revive(kept, name, all_blocks, candidates[name])


def _revive(kept: Kept, name: str, all_blocks: Sequence[Blocks], candidates: Tensor | None = None) -> None:
    """Bring back the masked unit, one of `candidates`, that fills most gaps and makes the fewest; in place."""
    gain = torch.zeros(len(kept[name]), dtype=torch.int64)
    for blocks in all_blocks:
        if name in blocks.owned:
            gain += ((_missing(blocks, kept) > 0).long() * 2 - 1) @ blocks.owned[name]
    gain[~(~kept[name] if candidates is None else candidates)] = torch.iinfo(gain.dtype).min
    kept[name][int((gain == gain.max()).nonzero()[0])] = True
