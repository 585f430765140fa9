"""How fast a program trains, against the module that it was exported from."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from zoo.examples import draw
from zoo.families import Family

BATCH = 8
SECONDS = 10.0
LEAST, MOST = 5, 25
"""Pairs of steps; as many as fit into `SECONDS` between these."""


def speed_against(eager: nn.Module, program: nn.Module, family: Family) -> float:
    """Steps a second of the program, over those of the module: medians of CPU time, one thread, step about."""
    steps = [_stepper(copy.deepcopy(model).train(), family) for model in (eager, program)]
    for step in steps:
        step()
    seconds: list[list[float]] = [[], []]
    started = time.monotonic()
    while len(seconds[0]) < LEAST or (len(seconds[0]) < MOST and time.monotonic() - started < SECONDS):
        for step, taken in zip(steps, seconds, strict=True):
            before = time.process_time()
            step()
            taken.append(time.process_time() - before)
    return statistics.median(seconds[0]) / statistics.median(seconds[1])


def _stepper(model: nn.Module, family: Family) -> Callable[[], None]:
    x = draw(family, BATCH, 30)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        logits = model(x).flatten(0, -2)
        nn.functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[-1]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step
