"""What a dataset's validation tells: sizes, statistics, balance of the classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pruning.data import Dataset, Split, Task

NUMBERS_AT_ONCE = 1 << 22
"""Of a file that is mapped, no more need be in memory, in float64."""
MAX_CHANNELS = 64
"""Of more, such as spectral bands, nobody reads each one's."""


def describe(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """{"splits": {name: {num_examples, input_shape, input_dtype, input_mean, input_std, task, target_shape,
    target_dtype, num_classes, class_counts}}}, JSON-able.

    Shapes are of one example. `input_mean` and `input_std` are of the inputs as they are, before any preprocessing:
    a list with one number a channel for images (channels, height, width), else one number; null for whole numbers that
    stand for something, such as tokens. `class_counts` has the examples of each class, for several labels those that
    have it; null for numbers and tokens, as `num_classes` is for numbers. `target_dtype` is as it is held, not as it
    was given.
    """
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    task = dataset.task
    described = {
        name: {
            "num_examples": len(split),
            "input_shape": list(split.inputs.shape[1:]),
            "input_dtype": str(split.inputs.dtype).removeprefix("torch."),
            **_statistics(split),
            "task": task,
            "target_shape": list(split.targets.shape[1:]),
            "target_dtype": str(split.targets.dtype).removeprefix("torch."),
            "num_classes": dataset.num_classes,
            "class_counts": _class_counts(split, task, dataset.num_classes),
        }
        for name, split in splits.items()
        if split is not None
    }
    return {"splits": described}


def _class_counts(split: Split, task: Task, num_classes: int | None) -> list[int] | None:
    if task == "classification":
        assert num_classes is not None
        counts = torch.bincount(split.targets, minlength=num_classes)
    elif task == "multi_label":
        counts = (split.targets == 1).sum(0)
    else:
        return None
    return [int(count) for count in counts]


def _statistics(split: Split) -> dict[str, float | list[float] | None]:
    inputs = split.inputs
    if not (inputs.is_floating_point() or inputs.dtype == torch.uint8):
        return {"input_mean": None, "input_std": None}
    by_channel = inputs.dim() == 4 and inputs.shape[1] <= MAX_CHANNELS
    mean = _mean_of(inputs, by_channel, 0.0, 1)
    variance = _mean_of(inputs, by_channel, mean, 2)
    if by_channel:
        return {"input_mean": mean.flatten().tolist(), "input_std": variance.sqrt().flatten().tolist()}
    return {"input_mean": float(mean), "input_std": float(variance.sqrt())}


def _mean_of(inputs: Tensor, by_channel: bool, center: Tensor | float, power: int) -> Tensor:
    """The mean of (inputs - center)^power in float64: (1, channels, 1, 1), or one number in as many dimensions."""
    axes = tuple(axis for axis in range(inputs.dim()) if axis != 1 or not by_channel)
    at_once = max(1, NUMBERS_AT_ONCE // inputs[0].numel())
    parts = (part.double() for part in torch.split(inputs, at_once))
    total = sum((part - center).pow(power).sum(axes, keepdim=True) for part in parts)
    assert isinstance(total, Tensor)
    return total / (inputs.numel() // total.numel())
