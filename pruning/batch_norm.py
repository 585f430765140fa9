"""Batch-norm statistics, measured anew over the training split."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from torch import nn

from pruning.batches import batches, steps_per_epoch
from pruning.data import Split
from pruning.evaluation import evaluating
from pruning.training_options import Augmentation, Training


def recalibrate_batch_norm(model: nn.Module, split: Split, training: Training, seed: int, epoch: int = 0) -> None:
    """Set running means and variances to their plain averages over the batches of one epoch, without augmentation.

    Statistics that trail behind the weights by an exponential average are those of weights that no longer are. Batches
    are shuffled as epoch `epoch` is, for a split sorted by class would give each batch the statistics of one class.
    All else is in evaluation mode: dropout drops nothing. In float32. Layers without statistics are left alone.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not layers:
        return
    plain = training.model_copy(update={"augmentation": Augmentation()})
    num_batches = steps_per_epoch(training, len(split), model)
    with evaluating(model), _averaging(layers), torch.no_grad():
        for inputs, _ in islice(batches(split, plain, model, seed, epoch), num_batches):
            model(inputs)


@contextmanager
def _averaging(layers: list[nn.modules.batchnorm._BatchNorm]) -> Iterator[None]:
    """Layers that average from nothing; their momenta are put back, their mode is whoever changed it before."""
    momenta = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # torch's word for a cumulative average
            layer.train()
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
