"""One seed, many named streams: nothing random in one place shifts what is random in another.

A stream is named by what it is for and by when (`generator(seed, "data order", epoch)`), never by how much was drawn
before. So round n of a resumed job draws what round n of an uninterrupted one draws.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

CPU = torch.device("cpu")


def derive_seed(seed: int, *names: str | int) -> int:
    """The seed of a named stream: 63 bits of sha256 over the seed and the names."""
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A fresh CPU generator for the named stream."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


@contextmanager
def global_stream(seed: int, *names: str | int, device: torch.device = CPU) -> Iterator[None]:
    """Torch's global generators, from which dropout draws, on the named stream; put back afterwards.

    The CPU's, and that of `device` where it is a CUDA device (with an index). Others are left alone.
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index])
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(derive_seed(seed, *names))
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
