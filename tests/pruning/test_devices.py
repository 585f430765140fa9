"""Training elsewhere than on the CPU: nothing is mixed, and rounds come back with the bits that are expected."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from elsewhere import ELSEWHERE, MixedDevices, another_device
from test_iterative import BATCH, RECIPES, resumed, same_bits
from test_strategies import recipe_of
from torch import nn

from pruning.criteria import CRITERIA, Evidence
from pruning.data import Dataset, Split, place
from pruning.iterative import Round, prune_iteratively
from pruning.masks import Masks
from pruning.randomness import global_stream
from pruning.recipe import UNIT_CRITERIA
from pruning.strategies import STRATEGIES
from pruning.training import evaluate, train
from pruning.unit_flow import find_units

# The stand-in device is called "meta", whose tensors ignore copies; ours hold what is copied.
pytestmark = pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")


def rounds_elsewhere(*args: Any, **options: Any) -> list[Round]:
    with another_device() as device:
        return list(prune_iteratively(*args, device=device, **options))


@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES)
def test_rounds_of_another_device_are_the_same_and_lie_on_the_cpu(changes, toy_conv, make_dataset, make_recipe) -> None:
    recipe, dataset = make_recipe(**changes), make_dataset((1, 4, 4), 3, 48)
    expected = list(prune_iteratively(toy_conv, dataset, recipe))
    found = rounds_elsewhere(toy_conv, dataset, recipe)
    assert [r.record for r in found] == [r.record for r in expected]
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("state", "masks", "ticket"):
            assert same_bits(getattr(ours, name), getattr(theirs, name))
            assert {type(tensor) for tensor in getattr(ours, name).values()} == {torch.Tensor}
        assert (ours.metrics, ours.early_stopping) == (theirs.metrics, theirs.early_stopping)
    again = rounds_elsewhere(toy_conv, dataset, recipe, resume=resumed(found[:2], []))
    for ours, theirs in zip(again, found[2:], strict=True):
        assert same_bits(ours.state, theirs.state)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_of_another_device_gives_the_same(name, toy_conv, make_dataset) -> None:
    recipe, dataset = recipe_of(name), make_dataset((1, 4, 4), 3, 48)
    for ours, theirs in zip(
        rounds_elsewhere(toy_conv, dataset, recipe), prune_iteratively(toy_conv, dataset, recipe), strict=True
    ):
        for part in ("state", "masks", "ticket", "optimizer"):
            one, other = getattr(ours, part), getattr(theirs, part)
            assert (one is None) == (other is None)
            assert one is None or same_bits(one, other)
            assert {type(tensor) for tensor in (one or {}).values()} <= {torch.Tensor}
        for control, measured in ours.controls.items():
            assert measured["metrics"] == theirs.controls[control]["metrics"]


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_scores_elsewhere(name, toy_conv, make_dataset, make_recipe) -> None:
    for granularity in ("weight", "unit"):
        if granularity == "weight" and name in UNIT_CRITERIA:
            continue
        recipe = make_recipe(criterion={"name": name}, granularity=granularity, stop={"rounds": 1})
        dataset = make_dataset((1, 4, 4), 3, 48)
        here = list(prune_iteratively(toy_conv, dataset, recipe))
        there = rounds_elsewhere(toy_conv, dataset, recipe)
        assert all(same_bits(one.masks, other.masks) for one, other in zip(here, there, strict=True))


def test_inputs_that_do_not_fit_follow_batch_by_batch(toy_conv, make_dataset, make_recipe) -> None:
    dataset = make_dataset((1, 4, 4), 3, 48)
    training = make_recipe(training={"epochs": 2, **BATCH, "preprocessing": {"mean": [0.1]}}).training
    mask: Masks = {"fc1.weight": torch.rand_like(toy_conv.fc1.weight) > 0.5}
    here = copy.deepcopy(toy_conv)
    groups, _ = find_units(here, dataset.train.inputs[:2])

    def activations(model: nn.Module, split: Split) -> dict[str, torch.Tensor]:
        evidence = Evidence(split, training.preprocessing, groups, torch.Generator())
        return {name: scores.cpu() for name, scores in CRITERIA["activation"].score(model, mask, evidence).items()}

    train(here, mask, dataset, training, seed=0)
    with another_device() as device:
        there = copy.deepcopy(toy_conv).to(device)
        streamed = Dataset(*(_targets_only(split, device) for split in (dataset.train, dataset.validation)), None, 3)
        train(there, mask, streamed, training, seed=0)
        metrics = evaluate(there, streamed.train, training.preprocessing)
        scores = activations(there, streamed.train)
    assert same_bits(scores, activations(here, dataset.train))
    assert metrics == evaluate(here, dataset.train, training.preprocessing)
    for ours, theirs in zip(there.parameters(), here.parameters(), strict=True):
        assert torch.equal(ours.held, theirs)


def _targets_only(split: Split, device: torch.device) -> Split:
    return Split(split.inputs, split.targets.to(device))


def test_the_second_device_refuses_to_mix() -> None:
    """What the tests above would find."""
    with another_device() as device:
        there, here = torch.ones(2, device=device), torch.ones(2)
        assert (there + there).device == ELSEWHERE
        assert (there + there).cpu().tolist() == [2, 2]
        with pytest.raises(MixedDevices):
            there + here


def test_placing_on_the_cpu_moves_nothing(make_dataset) -> None:
    dataset = make_dataset()
    placed = place(dataset, torch.device("cpu"))
    assert (placed.train, placed.validation, placed.test) == (dataset.train, dataset.validation, dataset.test)


def test_a_global_stream_is_put_back_even_where_work_fails() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), global_stream(0, "dropout", 3):
        first = torch.rand(4)
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), before)
    with global_stream(0, "dropout", 3):
        assert torch.equal(torch.rand(4), first)
