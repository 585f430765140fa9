"""Inputs, a dataset and a recipe, as small as can be: enough to go through every step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pruning.data import Dataset, Split
from pruning.recipe import Recipe
from zoo.families import NUM_CLASSES, VOCABULARY, Family

NEXT_TOKEN = ("transformers:gpt2",)
"""Families that give logits for every token."""


def draw(family: Family, count: int, seed: int) -> Tensor:
    """(count, *input_shape)."""
    generator = torch.Generator().manual_seed(seed)
    if family.takes_tokens:
        return torch.randint(0, VOCABULARY, (count, *family.input_shape), generator=generator)
    return torch.randn(count, *family.input_shape, generator=generator)


def some_dataset(family: Family) -> Dataset:
    def split(count: int, seed: int) -> Split:
        inputs = draw(family, count, seed)
        return Split(inputs, inputs.roll(-1, 1) if family.name in NEXT_TOKEN else torch.arange(count) % NUM_CLASSES)

    return Dataset(split(8, 20), split(4, 21), None, VOCABULARY if family.name in NEXT_TOKEN else NUM_CLASSES)


def recipe(family: Family, granularity: str) -> Recipe:
    """Two rounds of magnitude pruning, two steps each."""
    training: dict[str, Any] = {"steps": 2, "batch_size": 4, "optimizer": {"name": "sgd", "lr": 1e-4}}
    if family.name in NEXT_TOKEN:
        training["loss"] = "next_token"
    return Recipe.model_validate(
        {
            "criterion": {"name": "magnitude"},
            "granularity": granularity,
            "scope": {"kind": "layerwise"},
            "schedule": {"fraction": 0.3},
            "between_rounds": {"weights": "continue"},
            "stop": {"rounds": 2},
            "training": training,
        }
    )
