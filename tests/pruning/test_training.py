from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pruning import training as module
from pruning.batches import batches
from pruning.data import Dataset, Split, preprocessor, with_validation
from pruning.formats.errors import FormatError
from pruning.rewinding import snapshot
from pruning.schedules import RecipeRefused
from pruning.training import Diverged, evaluate, evaluating, steps_per_epoch, train
from pruning.training_options import Preprocessing, Training

OPTIMIZERS = [
    {"name": "adam", "lr": 0.05, "weight_decay": 0.1},
    {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.1},
    {"name": "adamw", "lr": 0.05, "weight_decay": 0.5},
    {"name": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
]
IDS = ["adam", "sgd", "adamw", "nesterov"]


def plan(**changes) -> Training:
    given = {"steps": 12, "batch_size": 16, "optimizer": {"name": "adam", "lr": 0.01}}
    if "epochs" in changes:
        del given["steps"]
    return Training.model_validate(given | changes)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=IDS)
def test_pruned_weights_are_exactly_zero_after_every_step(optimizer, counting_toy, make_dataset) -> None:
    mask = torch.tensor([[True, False, True]] * 4)
    seen = []
    counting_toy.fc1.register_forward_pre_hook(
        lambda *_: seen.append(bool((counting_toy.fc1.weight[~mask] == 0).all()))
    )
    train(counting_toy, {"fc1.weight": mask}, make_dataset(), plan(optimizer=optimizer, evaluate_every_steps=1), seed=0)
    assert len(seen) == 24
    assert all(seen)
    assert counting_toy.fc1.weight[~mask].tolist() == [0.0] * 4
    assert bool((counting_toy.fc1.weight[mask] != 0).all())


def test_pruned_weights_end_as_positive_zeros(make_dataset) -> None:
    """Of two classes, one row's gradient is the other's negative: half of the products were -0.0."""
    model = nn.Linear(3, 2)
    train(model, {"weight": torch.tensor([[True, False, False]] * 2)}, make_dataset(), plan(), seed=0)
    assert not torch.signbit(model.weight[:, 1:]).any()


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=IDS)
def test_the_loop_is_the_plain_loop(optimizer, counting_toy, make_dataset) -> None:
    """Without masks it computes what torch's own default optimiser computes on the same batches."""
    dataset, recipe = make_dataset(), plan(optimizer=optimizer)
    with torch.no_grad():
        for p in counting_toy.parameters():
            p.mul_(0.05)
    plain = copy.deepcopy(counting_toy)
    options = {key: value for key, value in optimizer.items() if key != "name"}
    theirs = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimizer["name"]](
        plain.parameters(), **options
    )
    there = batches(dataset.train, recipe, plain, 0)
    for _ in range(12):
        inputs, targets = next(there)
        theirs.zero_grad()
        cross_entropy(plain(inputs), targets).backward()
        theirs.step()

    train(counting_toy, {}, dataset, recipe, seed=0)
    for ours, expected in zip(counting_toy.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, expected)


def test_the_order_of_an_epoch_comes_from_seed_and_epoch_alone(counting_toy, make_dataset) -> None:
    dataset, recipe = make_dataset(), plan()

    def order(seed: int, first: int, num_epochs: int) -> list[list[float]]:
        there = batches(dataset.train, recipe, counting_toy, seed, first)
        return [next(there)[0].flatten().tolist() for _ in range(3 * num_epochs)]

    both = order(0, 0, 2)
    assert both[3:] == order(0, 1, 1)
    assert both[:3] != both[3:]
    assert both[:3] != order(1, 0, 1)
    assert sorted(itertools.chain(*both[:3])) == sorted(dataset.train.inputs.flatten().tolist())


def test_same_seed_same_bits_with_dropout_whatever_the_global_generator(toy_conv, make_dataset) -> None:
    dataset = make_dataset((1, 4, 4), 3)
    states = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        model = copy.deepcopy(toy_conv)
        before = torch.get_rng_state()
        train(model, {}, dataset, plan(), seed=0)
        assert torch.equal(before, torch.get_rng_state())
        states.append(snapshot(model))
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    other = copy.deepcopy(toy_conv)
    train(other, {}, dataset, plan(), seed=1)
    assert not torch.equal(other.conv.weight, states[0]["conv.weight"])


def test_early_stopping_is_read_afterwards_and_training_runs_in_full(counting_toy, make_dataset, monkeypatch) -> None:
    losses = iter([3.0, 1.0, 2.0, 1.0, 4.0])
    monkeypatch.setattr(module, "evaluate", lambda *_: {"accuracy": 0.5, "loss": next(losses)})
    trained = train(counting_toy, {}, make_dataset(), plan(evaluate_every_steps=3, steps=13), seed=0)
    assert trained.steps == 13
    assert trained.early_stopping == {"step": 6, "metrics": {"accuracy": 0.5, "loss": 1.0}}


def test_patience_ends_training(counting_toy, make_dataset, monkeypatch) -> None:
    losses = iter([3.0, 1.0, 2.0, 1.0, 0.5])
    monkeypatch.setattr(module, "evaluate", lambda *_: {"accuracy": 0.5, "loss": next(losses)})
    trained = train(counting_toy, {}, make_dataset(), plan(epochs=9, early_stopping={"patience": 2}), seed=0)
    assert trained.steps == 4 * 3, "evaluated once an epoch of three batches; two in a row were no better"
    assert trained.early_stopping["step"] == 6


def test_divergence_names_round_and_step(make_dataset) -> None:
    class Breaks(nn.Linear):
        steps = 0

        def forward(self, x):
            self.steps += self.training
            return super().forward(x) * (float("nan") if self.steps == bad else 1.0)

    for bad, every in [(1, 30), (7, 30), (10, 30), (11, 4), (13, 30), (25, 30)]:
        with pytest.raises(Diverged, match=f"step {bad};") as caught:
            train(Breaks(3, 2), {}, make_dataset(), plan(steps=25, evaluate_every_steps=every), seed=0)
        assert caught.value.step == bad, "the first, not that of the next evaluation"
    caught.value.number = 3
    assert "round 3" in str(caught.value)


def test_early_stopping_waits_for_the_step_to_rewind_to(counting_toy, make_dataset, monkeypatch) -> None:
    monkeypatch.setattr(module, "evaluate", lambda *_: {"accuracy": 0.5, "loss": 1.0})
    recipe = plan(steps=30, evaluate_every_steps=2, early_stopping={"patience": 1})
    assert train(counting_toy, {}, make_dataset(), recipe, seed=0).steps == 4
    trained = train(counting_toy, {}, make_dataset(), recipe, seed=0, keep_step=9)
    assert (trained.steps, trained.kept is not None) == (10, True)


def test_what_progress_raises_ends_training(counting_toy, make_dataset) -> None:
    calls = []

    def progress(step: int, steps: int) -> None:
        calls.append((step, steps))
        if step == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(counting_toy, {}, make_dataset(), plan(steps=50), seed=0, progress=progress)
    assert calls == [(10, 50), (20, 50)]


def test_a_last_batch_of_one_is_dropped_only_before_batch_norm(counting_toy, toy_conv, make_dataset) -> None:
    assert steps_per_epoch(plan(), 33, counting_toy) == 3
    assert steps_per_epoch(plan(), 33, toy_conv) == 2
    assert steps_per_epoch(plan(), 34, toy_conv) == 3
    train(toy_conv, {}, make_dataset((1, 4, 4), 3, 33), plan(epochs=2), seed=0)
    with pytest.raises(RecipeRefused, match="batch of one example"):
        steps_per_epoch(plan(batch_size=1), 33, toy_conv)


def test_evaluate_by_hand_over_several_batches() -> None:
    model = nn.Identity()
    inputs = torch.zeros(5000, 2)
    inputs[:, 0] = 2.0
    targets = (torch.arange(5000) < 1000).long()
    metrics = evaluate(model, Split(inputs, targets), Preprocessing())
    right, wrong = (cross_entropy(torch.tensor([[2.0, 0.0]]), torch.tensor([label])).item() for label in (0, 1))
    assert metrics == {"accuracy": 0.8, "loss": pytest.approx(0.8 * right + 0.2 * wrong)}


def test_evaluating_gives_each_module_its_own_mode_back(toy_conv) -> None:
    toy_conv.train()
    toy_conv.bn.eval()
    with pytest.raises(ZeroDivisionError), evaluating(toy_conv):
        assert not toy_conv.training
        raise ZeroDivisionError
    assert toy_conv.training
    assert toy_conv.fc1.training
    assert not toy_conv.bn.training


def test_preprocessing() -> None:
    images = torch.tensor([[[[0, 255]], [[51, 102]]]], dtype=torch.uint8)
    plain = preprocessor(Preprocessing(), images)(images)
    torch.testing.assert_close(plain, torch.tensor([[[[0.0, 1.0]], [[0.2, 0.4]]]]))
    stated = preprocessor(Preprocessing(scale=1.0, mean=[1, 2], std=[2, 4]), images)(images)
    torch.testing.assert_close(stated, torch.tensor([[[[-0.5, 127.0]], [[12.25, 25.0]]]]))
    floats = torch.ones(2, 3)
    assert preprocessor(Preprocessing(), floats)(floats) is floats
    shifted = preprocessor(Preprocessing(mean=1.0), floats)(floats)
    assert torch.equal(shifted, torch.zeros(2, 3))
    assert torch.equal(floats, torch.ones(2, 3)), "the dataset itself is never written to"
    half = torch.ones(2, 3, dtype=torch.float16)
    assert preprocessor(Preprocessing(), half)(half).dtype == torch.float32
    with pytest.raises(RecipeRefused, match="3 values do not fit"):
        preprocessor(Preprocessing(mean=[1, 2, 3]), images)


def test_validation_is_held_out_stratified_by_the_seed() -> None:
    targets = torch.arange(300) % 3
    dataset = Dataset(Split(torch.arange(300.0).view(-1, 1), targets), None, None, 3)
    held = with_validation(dataset, 0)
    assert held.validation is not None
    assert (len(held.train), len(held.validation)) == (270, 30)
    assert torch.bincount(held.validation.targets).tolist() == [10, 10, 10]
    everything = torch.cat([held.train.inputs, held.validation.inputs]).flatten()
    assert everything.sort().values.tolist() == list(range(300))
    assert torch.equal(with_validation(dataset, 0).validation.inputs, held.validation.inputs)
    assert not torch.equal(with_validation(dataset, 1).validation.inputs, held.validation.inputs)
    assert with_validation(held, 5) is held
    with pytest.raises(FormatError, match="too few"):
        with_validation(Dataset(Split(torch.zeros(9, 1), torch.zeros(9).long()), None, None, 1), 0)
