"""Toys: a network whose weights are 0..n-1, a small dataset that can be learnt, a recipe to vary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning.data import Dataset, Split
from pruning.recipe import Recipe


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Toy(nn.Module):
    """fc1: 3 -> 4, fc2: 4 -> 2."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(3, 4)
        self.fc2 = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(x)))


class ToyConv(nn.Module):
    """A convolution with batch-norm and dropout, flattened into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.2)
        self.fc1 = nn.Linear(4 * 2 * 2, 6)
        self.fc2 = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.conv(x)))
        x = torch.max_pool2d(x, 2).flatten(1)
        return self.fc2(self.dropout(torch.relu(self.fc1(x))))


@pytest.fixture
def counting_toy() -> Toy:
    """Every parameter is 0, 1, 2, ... in order."""
    toy = Toy()
    with torch.no_grad():
        for parameter in toy.parameters():
            parameter.copy_(torch.arange(parameter.numel(), dtype=torch.float32).view_as(parameter))
    return toy


@pytest.fixture
def toy_conv() -> ToyConv:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return ToyConv()


def learnable(shape: tuple[int, ...], num_classes: int, num_examples: int, seed: int) -> Split:
    """Noise around one random centre a class."""
    draws = torch.Generator().manual_seed(seed)
    centres = torch.randn(num_classes, *shape, generator=torch.Generator().manual_seed(99))
    targets = torch.arange(num_examples) % num_classes
    return Split(centres[targets] + 0.5 * torch.randn(num_examples, *shape, generator=draws), targets)


@pytest.fixture
def make_dataset() -> Callable[..., Dataset]:
    def make(shape: tuple[int, ...] = (3,), num_classes: int = 2, num_examples: int = 40) -> Dataset:
        return Dataset(
            train=learnable(shape, num_classes, num_examples, 0),
            validation=learnable(shape, num_classes, 20, 1),
            test=learnable(shape, num_classes, 20, 2),
            num_classes=num_classes,
        )

    return make


@pytest.fixture
def make_recipe() -> Callable[..., Recipe]:
    def make(**changes: Any) -> Recipe:
        given: dict[str, Any] = {
            "criterion": {"name": "magnitude"},
            "scope": {"kind": "layerwise"},
            "schedule": {"fraction": 0.5},
            "between_rounds": {"weights": "reset"},
            "stop": {"rounds": 2},
            "training": {"steps": 6, "batch_size": 16, "optimizer": {"name": "adam", "lr": 0.01}},
        }
        return Recipe.model_validate(given | changes)

    return make
