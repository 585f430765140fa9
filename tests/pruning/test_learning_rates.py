from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, OneCycleLR

from pruning.learning_rates import RATES, constant, rate_of
from pruning.training_options import LearningRate

STEPS = 40


def ours(num_steps: int = STEPS, **options) -> list[float]:
    rate = rate_of(LearningRate.model_validate(options))
    return [rate(step, num_steps) for step in range(num_steps)]


def theirs(make, num_steps: int = STEPS) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for step in range(num_steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if step < num_steps - 1:
            scheduler.step()
    return rates


@pytest.mark.parametrize("num_steps", [4, 10, 40, 1000])
def test_as_torch_has_them(num_steps) -> None:
    for options, make in [
        ({"kind": "cosine"}, lambda o: CosineAnnealingLR(o, num_steps)),
        ({"kind": "one_cycle"}, lambda o: OneCycleLR(o, 1.0, total_steps=num_steps, cycle_momentum=False)),
        ({"kind": "step"}, lambda o: MultiStepLR(o, [num_steps // 2, num_steps * 3 // 4])),
    ]:
        if options["kind"] == "step" and num_steps % 4:
            continue
        assert ours(num_steps, **options) == pytest.approx(theirs(make, num_steps), abs=1e-9), options


def test_milestones_are_exact_where_floating_point_is_not() -> None:
    """0.1 * 30 > 3: the third step (from 0) would keep the old rate."""
    rates = ours(30, kind="step", milestones=[0.1, 0.7], factor=0.5)
    assert rates == [1.0] * 3 + [0.5] * 18 + [0.25] * 9


def test_constant_is_the_very_function() -> None:
    assert rate_of(LearningRate()) is constant
    assert rate_of(LearningRate(warmup_steps=1)) is not constant
    assert ours() == [1.0] * STEPS


@pytest.mark.parametrize("kind", ["constant", "step", "cosine"])
def test_warm_up_rises_from_0_and_then_is_gone(kind) -> None:
    plain, warm = ours(kind=kind), ours(kind=kind, warmup_steps=8)
    assert warm[8:] == plain[8:]
    assert warm[:8] == pytest.approx([step / 8 * rate for step, rate in enumerate(plain[:8])])


@pytest.mark.parametrize("kind", RATES)
@pytest.mark.parametrize("num_steps", [1, 2, 3, 7])
def test_short_rounds_have_rates_too(kind, num_steps) -> None:
    rates = ours(num_steps, kind=kind)
    assert all(0 <= rate <= 1 for rate in rates)
    assert max(rates) > 0.03
