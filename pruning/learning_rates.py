"""Learning-rate schedules: pure functions (t, T) -> a factor on the optimiser's `lr`.

t is the step of a round, from 0; T the steps of the round. Each is one row of RATES.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from pruning.training_options import LearningRate

Rate = Callable[[int, int], float]

_RISE = 0.3
"""The part of one_cycle in which the rate rises."""
_FIRST, _LAST = 1 / 25, 1 / 250_000


def constant(step: int, num_steps: int) -> float:  # noqa: ARG001 (schedules share one signature)
    """1. Training that has this very function for its rate never touches the optimiser's rate."""
    return 1.0


def step_decay(step: int, num_steps: int, options: LearningRate) -> float:
    """factor^m, where m is the number of milestones at or before t / T (He et al. 2016, section 4.2)."""
    # Half a millionth of a step: 0.1 * 30 is more than 3 in floating point.
    return options.factor ** sum(step >= milestone * num_steps - 5e-7 for milestone in options.milestones)


def cosine(step: int, num_steps: int) -> float:
    """(1 + cos(pi t / T)) / 2: from 1, towards 0 (Loshchilov & Hutter 2017, equation 5, without restarts)."""
    return (1 + math.cos(math.pi * step / num_steps)) / 2


def one_cycle(step: int, num_steps: int) -> float:
    """From 1/25 up to 1 at step 0.3 T - 1, down to 1/250000 at step T - 1, each half a cosine (Smith & Topin 2018).

    As `torch.optim.lr_scheduler.OneCycleLR` has it by default, momentum left alone. Rounds of fewer than four steps
    have no rise.
    """
    peak = max(0.0, _RISE * num_steps - 1)
    if step <= peak:
        return _between(_FIRST, 1.0, step / peak) if peak else 1.0
    return _between(1.0, _LAST, (step - peak) / (num_steps - 1 - peak))


def _between(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2


def warmed_up(rate: Rate, warmup_steps: int) -> Rate:
    """min(1, t / warmup_steps) * rate(t, T): from 0, linearly (Goyal et al. 2017; Frankle & Carbin 2019, section 4)."""
    return lambda step, num_steps: min(1.0, step / warmup_steps) * rate(step, num_steps)


RATES: dict[str, Callable[[LearningRate], Rate]] = {
    "constant": lambda _: constant,
    "step": lambda options: partial(step_decay, options=options),
    "cosine": lambda _: cosine,
    "one_cycle": lambda _: one_cycle,
}


def rate_of(options: LearningRate) -> Rate:
    """The recipe's schedule, its warm-up included; `constant` itself where there is none."""
    rate = RATES[options.kind](options)
    return warmed_up(rate, options.warmup_steps) if options.warmup_steps else rate
