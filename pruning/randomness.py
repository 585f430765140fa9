"""One seed, many named streams: nothing random in one place shifts what is random in another.

A stream is named by what it is for and by when (`generator(seed, "data order", epoch)`), never by how much was drawn
before. So round n of a resumed job draws what round n of an uninterrupted one draws.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

CPU = torch.device("cpu")


def derive_seed(seed: int, *names: str | int) -> int:
    """The seed of a named stream: 63 bits of sha256 over the seed and the names."""
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A fresh CPU generator for the named stream."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


@contextmanager
def global_generators(device: torch.device = CPU) -> Iterator[list[torch.Generator]]:
    """Torch's global generators, from which dropout draws, to be seeded at will; put back afterwards.

    The CPU's, and that of `device` where it is a CUDA device (with an index). Others are left alone.
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index])
    states = [generator.get_state() for generator in generators]
    try:
        yield generators
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


@contextmanager
def global_stream(seed: int, *names: str | int, device: torch.device = CPU) -> Iterator[None]:
    """Torch's global generators on the named stream; put back afterwards."""
    with global_generators(device) as generators:
        for generator in generators:
            generator.manual_seed(derive_seed(seed, *names))
        yield


@contextmanager
def global_streams(seed: int, *names: str | int, device: torch.device = CPU) -> Iterator[Callable[[int], None]]:
    """Yields begin(step): torch's global generators on the named stream of that step; put back afterwards.

    Seeding takes 2% of a small network's step. So if nothing was drawn between the first call and the second, the
    network is taken to draw never, and later calls do nothing.
    """
    first: list[Tensor] | None = None
    draws: bool | None = None

    with global_generators(device) as generators:

        def begin(step: int) -> None:
            nonlocal first, draws
            if draws is None and first is not None:
                draws = any(not torch.equal(g.get_state(), state) for g, state in zip(generators, first, strict=True))
            if draws is False:
                return
            for generator in generators:
                generator.manual_seed(derive_seed(seed, *names, step))
            first = first or [generator.get_state() for generator in generators]

        yield begin
