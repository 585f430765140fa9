"""Which fault comes next, and when: all of it follows from a seed.

The service's answer does not: what a fault meets depends on the machine's pace. The same seed gives the same sequence
of faults, gaps and lengths, not the same interleaving.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chaos.faults import Fault

SHORTEST_GAP, LONGEST_GAP = 0.3, 4.0


@dataclass(frozen=True)
class Planned:
    gap_seconds: float
    """After the fault before it began."""
    fault: Fault


def schedule(seed: int, kinds: Sequence[str], pace: float = 1.0) -> Iterator[Planned]:
    """Without end. Deck by deck, each of every kind in an order of its own: none is left out by chance. `pace`
    stretches the gaps."""
    chance = random.Random(seed)
    while True:
        deck = list(kinds)
        chance.shuffle(deck)
        for kind in deck:
            gap = chance.uniform(SHORTEST_GAP, LONGEST_GAP) * pace
            yield Planned(gap, Fault(kind, chance.random(), chance.random()))
