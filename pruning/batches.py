"""Batches of a split, and how many a round has of them.

No DataLoader: its Python per example costs more than the arithmetic of a small network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor, nn

from pruning.augmentation import augmenter
from pruning.data import Split, preprocessor
from pruning.randomness import generator
from pruning.schedules import RecipeRefused
from pruning.training_options import Training


def steps_of(training: Training, num_examples: int, model: nn.Module) -> int:
    """Optimiser steps of one round, if nothing stops it early."""
    if training.steps is not None:
        return training.steps
    assert training.epochs is not None
    return training.epochs * steps_per_epoch(training, num_examples, model)


def epochs_of(training: Training, num_examples: int, model: nn.Module) -> int:
    """Epochs that one round's training takes its data order from, the last one perhaps in part."""
    return math.ceil(steps_of(training, num_examples, model) / steps_per_epoch(training, num_examples, model))


def steps_per_epoch(training: Training, num_examples: int, model: nn.Module) -> int:
    """Batches of an epoch; a last batch of one example is dropped where batch-norm would normalise it to nothing."""
    full, rest = divmod(num_examples, training.batch_size)
    smallest = 2 if _has_batch_norm(model) else 1
    steps = (full if training.batch_size >= smallest else 0) + (rest >= smallest)
    if steps == 0:
        raise RecipeRefused(
            ("training", "batch_size"), "batch-norm cannot train on a batch of one example; raise it to 2 or more"
        )
    return steps


def batches(
    split: Split, training: Training, model: nn.Module, seed: int, epoch_offset: int = 0, first_step: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """(inputs, targets) where the model computes, without end: augmented, then prepared, as the recipe says.

    Inputs stay as stored (uint8) until their batch is gathered. The order is drawn on the CPU: that of epoch e comes
    from (seed, e) alone.

    Args:
        epoch_offset: the first epoch.
        first_step: batches to leave out at the beginning, whole epochs of them if need be; they cost nothing.

    Raises:
        RecipeRefused: preprocessing or augmentation do not fit the examples; batches of one example, and batch-norm.
    """
    prepare = preprocessor(training.preprocessing, split.inputs, split.device)
    per_epoch = steps_per_epoch(training, len(split), model)
    channels_last = training.channels_last and split.inputs.dim() == 4
    skipped_epochs, skip = divmod(first_step, per_epoch)
    for epoch in count(epoch_offset + skipped_epochs):
        augment = augmenter(training.augmentation, split.inputs, seed, epoch, split.device)
        order = torch.randperm(len(split), generator=generator(seed, "data order", epoch))
        there, here = (
            torch.split(order.to(part.device), training.batch_size) for part in (split.inputs, split.targets)
        )
        for index in range(skip, per_epoch):
            inputs = split.on_device(split.inputs.index_select(0, there[index]))
            if augment is not None:
                inputs = augment(inputs, index * training.batch_size)
            inputs = prepare(inputs)
            if channels_last:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            yield inputs, split.targets.index_select(0, here[index])
        skip = 0


def _has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
