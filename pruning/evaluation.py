"""Evaluation: the metrics of a split, in evaluation mode, in float32 whatever the precision of training.

What is reported is what a user computes who downloads the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pruning.data import Split, preprocessor
from pruning.losses import LOSSES, Metrics
from pruning.training_options import Preprocessing

_MAX_INPUTS, _MAX_LOGITS = 1 << 20, 1 << 24
"""Numbers that a batch may hold: large batches, in bounded memory."""


def evaluate(model: nn.Module, split: Split, preprocessing: Preprocessing, loss: str = "cross_entropy") -> Metrics:
    """The metrics of `loss`, a row of `pruning.losses.LOSSES`; each of them is a float, `loss` always among them.

    cross_entropy: accuracy, loss. binary_cross_entropy: accuracy, f1, loss. mse: loss, mae, r2. next_token: accuracy,
    loss, perplexity. Nothing waits for the device before the last batch.
    """
    prepare = preprocessor(preprocessing, split.inputs, split.device)
    batch_size = max(64, min(4096, _MAX_INPUTS // max(1, split.inputs[0].numel())))
    row, totals = LOSSES[loss], dict[str, Tensor]()
    with evaluating(model), torch.no_grad():
        if loss == "next_token":  # a vocabulary of logits for each input number
            logits_of_one = model(prepare(split.on_device(split.inputs[:1]))).numel()
            batch_size = min(batch_size, max(1, _MAX_LOGITS // logits_of_one))
        for inputs, targets in zip(
            torch.split(split.inputs, batch_size), torch.split(split.targets, batch_size), strict=True
        ):
            sums = row.sums(model(prepare(split.on_device(inputs))), targets)
            totals = {name: totals[name].add_(part) for name, part in sums.items()} if totals else sums
    return row.metrics(totals, split)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; each module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
