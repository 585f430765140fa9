"""An interrupted reproduction goes on to the same lines, and tickets trained alone are the rounds that they were."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch

from benchmarks.reproduce.dropnet import FullyConnected
from benchmarks.reproduce.shelf import Shelf, alone, iterate
from pruning.data import Dataset, Split
from pruning.recipe import Recipe


def digits(num: int) -> Split:
    generator = torch.Generator().manual_seed(num)
    inputs = torch.randint(0, 256, (num, 1, 28, 28), dtype=torch.uint8, generator=generator)
    return Split(inputs, torch.randint(0, 10, (num,), generator=generator))


DATASET = Dataset(digits(120), digits(40), digits(30), 10)
RECIPE = Recipe.model_validate(
    {
        "strategy": "lottery_ticket_reset",
        "stop": {"rounds": 3},
        "training": {"steps": 6, "batch_size": 20, "evaluate_every_steps": 2},
    }
)


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in ("seconds", "cpu_seconds")} for line in lines]


def model() -> FullyConnected:
    return FullyConnected((12, 8), seed=0)


def test_interrupted_goes_on_to_the_same(tmp_path) -> None:
    whole, cut = Shelf(tmp_path / "whole"), Shelf(tmp_path / "cut")
    list(iterate(whole, model(), DATASET, RECIPE))
    list(islice(iterate(cut, model(), DATASET, RECIPE), 2))
    assert len(cut.lines) == 2
    list(iterate(cut, model(), DATASET, RECIPE))
    assert [line["number"] for line in cut.lines] == [0, 1, 2, 3]
    assert without_times(cut.lines) == without_times(whole.lines)


@pytest.mark.parametrize("number", [0, 2])
def test_a_ticket_trained_alone_is_its_round(tmp_path, number) -> None:
    shelf = Shelf(tmp_path)
    lines = list(iterate(shelf, model(), DATASET, RECIPE))
    again = alone(shelf, number, model(), DATASET, RECIPE)
    assert again["number"] == number
    assert again["metrics"] == lines[number]["metrics"]
    assert again["remaining"] == lines[number]["remaining"]
