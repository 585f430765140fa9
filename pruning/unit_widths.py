"""Which units stay, so that every layer has widths that it can have.

The groups of a grouped convolution lie in one tensor, so all of them see equally many inputs and have equally many
filters. Masks ask for no such thing. Where they leave one group more than another, masked units stay in the other: they
are held at zero, so that the function is the same, and fewer units go than are masked. Widths that are multiples of a
number are met in the same way. One unit may stand in several such convolutions (residual sums); units only ever come
back, and with all of them every width fits, so it ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

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
    fitting = _Fitting(alive, find_blocks(groups, parameters))
    fitting.even_out(fitting.blocks)
    in_blocks = [name for name in alive if name in fitting.places]
    while odd := [name for name in in_blocks if not _is_width(fitting.kept[name], round_to)]:
        for name in odd:
            while not _is_width(fitting.kept[name], round_to):
                # One only: with it, evening out brings others of the same units back.
                fitting.even_out(fitting.revive(name))
    return {name: fitting.kept[name] if name in in_blocks else _rounded(mask, round_to) for name, mask in alive.items()}


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


class _Fitting:
    """
    Attributes:
        kept: what stays so far.
        places: by group of units, the numbers of the `blocks` in which it stands.
        widths: of each of the `blocks`, (blocks,) indices that stay so far.
    """

    def __init__(self, alive: Mapping[str, Tensor], blocks: Sequence[Blocks]) -> None:
        self.blocks = range(len(blocks))
        self.kept = {name: mask.clone() for name, mask in alive.items()}
        self.places: dict[str, list[int]] = {}
        self.widths = []
        self._owned = [one.owned for one in blocks]
        for number, one in enumerate(blocks):
            stays = [owned[:, alive[name]].sum(1) for name, owned in one.owned.items()]
            self.widths.append(torch.stack([one.fixed, *stays]).sum(0))
            for name in one.owned:
                self.places.setdefault(name, []).append(number)

    def even_out(self, blocks: Iterable[int]) -> None:
        """Bring units back until those blocks, and the others in which these units stand, are alike."""
        waiting = list(blocks)
        while waiting:
            number = waiting.pop()
            while bool((missing := self._missing(number)).any()):
                lacking = int(missing.argmax())
                masked = {name: (part[lacking] > 0) & ~self.kept[name] for name, part in self._owned[number].items()}
                name = next(name for name, mask in masked.items() if bool(mask.any()))
                waiting += [place for place in self.revive(name, masked[name]) if place not in waiting]

    def revive(self, name: str, candidates: Tensor | None = None) -> list[int]:
        """Bring back the masked unit, one of `candidates`, that fills most gaps and makes the fewest.

        Returns:
            Where it stands.
        """
        candidates = ~self.kept[name] if candidates is None else candidates
        gain = torch.zeros(len(candidates), dtype=torch.int64)
        for number in self.places[name]:
            gain += ((self._missing(number) > 0).long() * 2 - 1) @ self._owned[number][name]
        unit = int(gain.masked_fill(~candidates, torch.iinfo(gain.dtype).min).argmax())
        self.kept[name][unit] = True
        for number in self.places[name]:
            self.widths[number] += self._owned[number][name][:, unit]
        return self.places[name]

    def _missing(self, number: int) -> Tensor:
        """(blocks,): how many more indices each needs to be as wide as the widest; one at least stays in each."""
        widths = self.widths[number]
        return widths.max().clamp(min=1) - widths
