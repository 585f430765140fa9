"""The lottery ticket on MNIST, short. The file is given by ESPALIER_TEST_MNIST; without it the test is skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.reproduce import images
from pruning.formats.architectures import build
from pruning.iterative import prune_iteratively
from pruning.recipe import Recipe

MNIST = Path(os.environ.get("ESPALIER_TEST_MNIST") or Path(__file__).parents[3] / "shared/data/mnist.npz")


@pytest.mark.timeout(600)
@pytest.mark.skipif(
    not MNIST.exists(), reason="MNIST is not there; ESPALIER_TEST_MNIST=PATH names an npz or idx folder"
)
def test_tickets_of_a_third_of_the_weights_learn_mnist() -> None:
    dataset = images.load(MNIST, num_validation=5000)
    training = {"steps": 1500, "evaluate_every_steps": 500, "preprocessing": {"mean": 0.1307, "std": 0.3081}}
    recipe = Recipe.model_validate(
        {"strategy": "lottery_ticket_reset", "stop": {"rounds": 5}, "training": training, "seed": 0}
    )

    rounds = list(prune_iteratively(build("lenet_300_100", seed=0), dataset, recipe))

    assert [round_.number for round_ in rounds] == list(range(6))
    assert rounds[-1].sparsity_actual == pytest.approx(1 - 0.329, abs=0.002)
    for round_ in rounds:
        assert round_.metrics["test"]["accuracy"] > 0.96
