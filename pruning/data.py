"""Datasets: named splits of tensors, whole in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pruning.formats.errors import FormatError
from pruning.randomness import generator
from pruning.recipe import Preprocessing
from pruning.schedules import RecipeRefused


@dataclass(frozen=True)
class Split:
    """`inputs` (n, ...) as stored: uint8, floating point, or int64 tokens; `targets` (n,) int64 class numbers."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: Tensor) -> Split:
        return Split(self.inputs[indices], self.targets[indices])


@dataclass(frozen=True)
class Dataset:
    train: Split
    validation: Split | None
    test: Split | None
    num_classes: int


def with_validation(dataset: Dataset, seed: int) -> Dataset:
    """The dataset, with 10% of train held out for validation where it has none: stratified, chosen by the seed.

    Every tenth example of the shuffled examples in the order of their classes, so each class gives its tenth to
    within one example.

    Raises:
        FormatError: train is too small to give anything away.
    """
    if dataset.validation is not None:
        return dataset
    train = dataset.train
    if len(train) < 10:
        raise FormatError(
            "validation.inputs", f"{len(train)} examples are too few to hold out 10%; give a split for it"
        )
    shuffled = torch.randperm(len(train), generator=generator(seed, "validation"))
    by_class = shuffled[train.targets[shuffled].argsort(stable=True)]
    held_out = torch.zeros(len(train), dtype=torch.bool)
    held_out[by_class[5::10]] = True
    return replace(
        dataset,
        train=train.take((~held_out).nonzero().flatten()),
        validation=train.take(held_out.nonzero().flatten()),
    )


def preprocessor(preprocessing: Preprocessing, inputs: Tensor) -> Callable[[Tensor], Tensor]:
    """batch -> (batch * scale - mean) / std in float32, done as one product and one sum; never in place.

    Args:
        inputs: (n, ...) the split that batches are taken from; its dtype gives the scale where none is stated.

    Raises:
        RecipeRefused: a list of means or deviations does not fit the first axis of an example, or examples are tokens
            (int64), which stand for something and stay as they are.
    """
    if inputs.dtype == torch.int64:
        if preprocessing != Preprocessing():
            raise RecipeRefused(("training", "preprocessing"), "tokens (int64) are not scaled; leave it out")
        return lambda batch: batch
    scale = preprocessing.scale
    if scale is None:
        scale = 1 / 255 if inputs.dtype == torch.uint8 else 1.0
    mean, std = _per_channel("mean", preprocessing.mean, inputs), _per_channel("std", preprocessing.std, inputs)
    # Both have a dimension: a 0-dimensional factor would leave a half precision batch in half precision.
    factor, shift = (scale / std).float(), (-mean / std).float()
    if bool((shift == 0).all()):
        if bool((factor == 1).all()) and inputs.dtype == torch.float32:
            return lambda batch: batch
        return lambda batch: batch * factor
    return lambda batch: (batch * factor).add_(shift)


def _per_channel(field: str, value: float | list[float], inputs: Tensor) -> Tensor:
    if not isinstance(value, list):
        return torch.tensor([value], dtype=torch.float64, device=inputs.device)
    if inputs.dim() < 2 or inputs.shape[1] != len(value):
        shape_of_one = tuple(inputs.shape[1:])
        raise RecipeRefused(
            ("training", "preprocessing", field),
            f"{len(value)} values do not fit examples of shape {shape_of_one}; give one an index of the first axis",
        )
    shape = (len(value), *[1] * (inputs.dim() - 2))
    return torch.tensor(value, dtype=torch.float64, device=inputs.device).view(shape)
