"""Training taken up in the middle of a round, and what an optimiser must not do to a pruned weight."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from pruning import randomness
from pruning.learning_rates import rate_of
from pruning.optimizers import OPTIMIZERS, flat_state, restore_optimizer
from pruning.rewinding import restore, snapshot
from pruning.schedules import RecipeRefused
from pruning.training import train
from pruning.training_options import Optimizer, Training

CHOICES = {
    "adam": {"name": "adam", "lr": 0.01, "weight_decay": 0.1},
    "adamw": {"name": "adamw", "lr": 0.01, "weight_decay": 0.5},
    "sgd": {"name": "sgd", "lr": 0.05, "weight_decay": 0.1},
    "momentum": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
    "nesterov": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
}
SCHEDULES = {
    "constant": {},
    "step": {"kind": "step", "milestones": [0.4, 0.6]},
    "cosine": {"kind": "cosine", "warmup_steps": 7},
    "one_cycle": {"kind": "one_cycle"},
}
MASKS = {
    "fc1.weight": (torch.arange(96) % 3 > 0).view(6, 16),
    "conv.weight": (torch.arange(36) % 4 > 0).view(4, 1, 3, 3),
}


def plan(**changes) -> Training:
    given = {"steps": 14, "batch_size": 16, "optimizer": CHOICES["adam"], "evaluate_every_steps": 5}
    return Training.model_validate(given | changes)


@pytest.fixture
def images(make_dataset):
    return make_dataset((1, 4, 4), 3)


def same_bits(one, two) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(
    ("optimizer", "schedule", "extras"),
    [
        *((o, s, {}) for o, s in itertools.product(CHOICES, SCHEDULES)),
        ("adam", "cosine", {"augmentation": {"flip": True, "crop_padding": 1}, "channels_last": True}),
        ("momentum", "one_cycle", {"precision": "bfloat16", "label_smoothing": 0.1}),
    ],
)
def test_taken_up_at_a_step_equals_uninterrupted(optimizer, schedule, extras, toy_conv, images) -> None:
    """Dropout, batch-norm, masks and all. Seven steps are two epochs and a batch."""
    recipe = plan(optimizer=CHOICES[optimizer], learning_rate=SCHEDULES[schedule], **extras)
    whole, first, second = (copy.deepcopy(toy_conv) for _ in range(3))
    at_once = train(whole, MASKS, images, recipe, seed=1, epoch_offset=4, keep_step=7, keep_optimizer_state=True)

    half = recipe.model_copy(update={"steps": 7})
    before = train(
        first,
        MASKS,
        images,
        half,
        seed=1,
        epoch_offset=4,
        rate=lambda step, _: rate_of(recipe.learning_rate)(step, 14),
        keep_optimizer_state=True,
    )
    assert at_once.kept is not None
    assert same_bits(at_once.kept, snapshot(first)), "what is kept on the way is the state after so many steps"
    restore(second, at_once.kept)
    after = train(
        second,
        MASKS,
        images,
        recipe,
        seed=1,
        epoch_offset=4,
        first_step=7,
        optimizer_state=before.optimizer_state,
        keep_optimizer_state=True,
    )
    assert same_bits(snapshot(whole), snapshot(second))
    assert same_bits(at_once.optimizer_state, after.optimizer_state)
    assert (at_once.steps, before.steps, after.steps) == (14, 7, 7)
    if CHOICES[optimizer]["name"] != "sgd" or "momentum" in CHOICES[optimizer]:
        fresh = copy.deepcopy(toy_conv)
        restore(fresh, at_once.kept)
        train(fresh, MASKS, images, recipe, seed=1, epoch_offset=4, first_step=7)
        assert not same_bits(snapshot(fresh), snapshot(whole)), "the optimiser's state matters"


def test_only_a_network_that_draws_is_seeded_at_every_step(toy_conv, images, monkeypatch) -> None:
    asked: list[int] = []
    real = randomness.derive_seed

    def spy(seed: int, *names: str | int) -> int:
        if names[0] == "dropout":
            asked.append(names[-1])
        return real(seed, *names)

    monkeypatch.setattr(randomness, "derive_seed", spy)
    train(copy.deepcopy(toy_conv), {}, images, plan(steps=6), seed=0)
    assert asked == [1, 2, 3, 4, 5, 6]
    toy_conv.dropout = nn.Identity()
    asked.clear()
    train(toy_conv, {}, images, plan(steps=6), seed=0)
    assert asked == [1]


def test_evaluations_keep_to_the_steps_of_the_round(toy_conv, images) -> None:
    calls: list[tuple[int, int]] = []
    trained = train(toy_conv, {}, images, plan(), seed=0, first_step=8, progress=lambda *call: calls.append(call))
    assert trained.early_stopping["step"] in (10, 14)
    assert calls == [(10, 14), (14, 14)]
    with pytest.raises(RecipeRefused, match="step 14 lies behind the 14"):
        train(toy_conv, {}, images, plan(), seed=0, first_step=14)


def test_only_what_is_asked_for_is_kept(toy_conv, images) -> None:
    trained = train(toy_conv, {}, images, plan(), seed=0)
    assert (trained.kept, trained.optimizer_state) == (None, None)
    assert train(toy_conv, {}, images, plan(), seed=0, keep_step=15).kept is None
    before = {key: value.clone() for key, value in toy_conv.state_dict().items()}
    assert same_bits(train(toy_conv, {}, images, plan(), seed=0, keep_step=0).kept, before)


def test_a_given_rate_is_used_instead_of_the_recipes(toy_conv, images) -> None:
    asked: list[tuple[int, int]] = []
    before = snapshot(toy_conv)

    def frozen(step: int, num_steps: int) -> float:
        asked.append((step, num_steps))
        return 0.0

    train(toy_conv, {}, images, plan(learning_rate={"kind": "one_cycle"}), seed=0, rate=frozen)
    assert asked == [(step, 14) for step in range(14)]
    assert torch.equal(toy_conv.fc1.weight, before["fc1.weight"])


@pytest.mark.parametrize("optimizer", CHOICES.values(), ids=CHOICES)
def test_pruned_weights_stay_zero_whatever_the_state_remembers(optimizer, toy_conv, images) -> None:
    """The state is of a dense training: its momenta push every weight."""
    recipe = plan(optimizer=optimizer, channels_last=True)
    dense = train(toy_conv, {}, images, recipe, seed=0, keep_optimizer_state=True)
    seen = []
    toy_conv.conv.register_forward_pre_hook(
        lambda layer, _: seen.append(bool((layer.weight[~MASKS["conv.weight"]] == 0).all()))
    )
    trained = train(toy_conv, MASKS, images, recipe, seed=0, optimizer_state=dense.optimizer_state, keep_step=3)
    assert len(seen) > 14
    assert all(seen)
    for state in (trained.kept, snapshot(toy_conv)):
        pruned = state["conv.weight"][~MASKS["conv.weight"]]
        assert pruned.tolist() == [0.0] * len(pruned)
        assert not torch.signbit(pruned).any()


@pytest.mark.parametrize("choice", CHOICES)
def test_the_state_is_flat_whole_and_of_its_own(choice) -> None:
    layer = nn.Linear(2, 3)
    parameters, options = dict(layer.named_parameters()), Optimizer.model_validate(CHOICES[choice])
    optimizer = OPTIMIZERS[options.name](parameters.values(), options)
    assert optimizer.defaults["fused"]
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = flat_state(optimizer, parameters)
    slots = {"sgd": set(), "momentum": {"momentum_buffer"}, "nesterov": {"momentum_buffer"}}
    expected = slots.get(choice, {"exp_avg", "exp_avg_sq", "step"})
    assert set(state) == {f"{name}/{slot}" for name in ("weight", "bias") for slot in expected}
    kept = {key: value.clone() for key, value in state.items()}
    optimizer.step()
    assert same_bits(state, kept)
    with pytest.raises(ValueError, match="belongs to no parameter"):
        restore_optimizer(optimizer, parameters, {"other/exp_avg": torch.zeros(2)})
    with pytest.raises(ValueError, match="has shape"):
        restore_optimizer(optimizer, parameters, {"weight/exp_avg": torch.zeros(2)})
