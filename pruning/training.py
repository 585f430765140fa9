"""The fast loop: the dataset is a tensor, the optimiser is fused, masks cost one product after each step.

No DataLoader: its Python per example costs more than the arithmetic of a small network. The process that calls this
sets the number of threads and `torch.set_flush_denormal`, which hold for all of it. The model is where the dataset's
targets are; nothing waits for that device but an evaluation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pruning import recipe
from pruning.data import Dataset, Split, preprocessor
from pruning.masks import apply_masks
from pruning.randomness import generator, global_stream
from pruning.schedules import RecipeRefused

Metrics = dict[str, float]
Progress = Callable[[int, int], None]
"""progress(step, steps). An exception that it raises ends the training: so does a caller stop or pause it."""

PROGRESS_EVERY_STEPS = 10


class Diverged(ArithmeticError):
    """The loss is no longer a number. `number` is the round's, set by the loop; null for the final entry."""

    def __init__(self, step: int, number: int | None = None) -> None:
        super().__init__(step, number)
        self.step = step
        self.number = number

    def __str__(self) -> str:
        entry = "the final entry" if self.number is None else f"round {self.number}"
        return f"the loss of {entry} is not finite at step {self.step}; lower training.optimizer.lr"


@dataclass(frozen=True)
class Trained:
    """`early_stopping` is read afterwards: {"step", "metrics"} of the evaluation of least validation loss."""

    steps: int
    early_stopping: dict[str, Any]
    evaluate_seconds: float


def train(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    dataset: Dataset,
    training: recipe.Training,
    *,
    seed: int,
    epoch_offset: int = 0,
    progress: Progress | None = None,
) -> Trained:
    """Train `model` in place; masked weights are exactly zero after every step.

    Args:
        masks: by parameter name; parameters without a mask train freely.
        dataset: with a validation split.
        epoch_offset: epochs these weights have trained before; the data order of epoch e comes from (seed, e) alone.

    Raises:
        Diverged: a loss was not finite at an evaluation or at the end.
        RecipeRefused: batches of one example, and batch-norm.
    """
    assert dataset.validation is not None
    parameters = dict(model.named_parameters())
    apply_masks(parameters, masks)
    optimizer = OPTIMIZERS[training.optimizer.name](
        [p for p in parameters.values() if p.requires_grad], training.optimizer
    )
    pruned = [name for name, mask in masks.items() if not bool(mask.all())]
    weights = [parameters[name].detach() for name in pruned]
    factors = [masks[name].to(parameters[name]) for name in pruned]

    num_steps = steps_of(training, len(dataset.train), model)
    evaluate_every = training.evaluate_every_steps or steps_per_epoch(training, len(dataset.train), model)
    patience = training.early_stopping.patience if training.early_stopping else math.inf
    best_step, best, since_best, evaluate_seconds = 0, {"loss": math.inf}, 0, 0.0

    with global_stream(seed, "dropout", epoch_offset, device=dataset.train.device):
        model.train()
        for step, (inputs, targets) in enumerate(_batches(dataset.train, training, model, seed, epoch_offset), 1):
            loss = cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if pruned:
                # Momentum, weight decay and Adam's state revive a weight whose gradient alone is masked.
                torch._foreach_mul_(weights, factors)

            if step % evaluate_every == 0 or step == num_steps:
                started = time.perf_counter()
                metrics = evaluate(model, dataset.validation, training.preprocessing)
                evaluate_seconds += time.perf_counter() - started
                if not (math.isfinite(loss.item()) and math.isfinite(metrics["loss"])):
                    raise Diverged(step)
                since_best += 1
                if metrics["loss"] < best["loss"]:
                    best_step, best, since_best = step, metrics, 0
            if progress is not None and (step % PROGRESS_EVERY_STEPS == 0 or step == num_steps):
                progress(step, num_steps)
            if step == num_steps or since_best >= patience:
                break

    optimizer.zero_grad()
    apply_masks(parameters, masks)  # a negative weight times zero is -0.0; what is stored is +0.0
    return Trained(step, {"step": best_step, "metrics": best}, evaluate_seconds)


def evaluate(model: nn.Module, split: Split, preprocessing: recipe.Preprocessing) -> Metrics:
    """{"accuracy": fraction of examples, "loss": mean cross-entropy in nats}, in evaluation mode."""
    prepare = preprocessor(preprocessing, split.inputs, split.device)
    # Large batches, in bounded memory: about a million input numbers at a time.
    batch_size = max(64, min(4096, (1 << 20) // max(1, split.inputs[0].numel())))
    correct, loss = (torch.zeros((), dtype=dtype, device=split.device) for dtype in (torch.int64, torch.float64))
    with evaluating(model), torch.no_grad():
        for inputs, targets in zip(
            torch.split(split.inputs, batch_size), torch.split(split.targets, batch_size), strict=True
        ):
            logits = model(prepare(split.on_device(inputs)))
            loss += cross_entropy(logits, targets, reduction="sum")
            correct += (logits.argmax(1) == targets).sum()
    return {"accuracy": int(correct) / len(split), "loss": float(loss) / len(split)}


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


def steps_of(training: recipe.Training, num_examples: int, model: nn.Module) -> int:
    """Optimiser steps of one round, if nothing stops it early."""
    if training.steps is not None:
        return training.steps
    assert training.epochs is not None
    return training.epochs * steps_per_epoch(training, num_examples, model)


def epochs_of(training: recipe.Training, num_examples: int, model: nn.Module) -> int:
    """Epochs that one round's training takes its data order from, the last one perhaps in part."""
    return math.ceil(steps_of(training, num_examples, model) / steps_per_epoch(training, num_examples, model))


def steps_per_epoch(training: recipe.Training, num_examples: int, model: nn.Module) -> int:
    """Batches of an epoch; a last batch of one example is dropped where batch-norm would normalise it to nothing."""
    full, rest = divmod(num_examples, training.batch_size)
    smallest = 2 if _has_batch_norm(model) else 1
    steps = (full if training.batch_size >= smallest else 0) + (rest >= smallest)
    if steps == 0:
        raise RecipeRefused(
            ("training", "batch_size"), "batch-norm cannot train on a batch of one example; raise it to 2 or more"
        )
    return steps


def _batches(
    split: Split, training: recipe.Training, model: nn.Module, seed: int, first_epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless. Inputs stay as stored (uint8) until their batch is gathered. The order is drawn on the CPU."""
    prepare = preprocessor(training.preprocessing, split.inputs, split.device)
    num_batches = steps_per_epoch(training, len(split), model)
    for epoch in count(first_epoch):
        order = torch.randperm(len(split), generator=generator(seed, "data order", epoch))
        there, here = (
            torch.split(order.to(part.device), training.batch_size) for part in (split.inputs, split.targets)
        )
        for chosen, same in zip(there[:num_batches], here, strict=False):
            inputs = split.on_device(split.inputs.index_select(0, chosen))
            yield prepare(inputs), split.targets.index_select(0, same)


def _has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def _adam(parameters: Iterable[nn.Parameter], options: recipe.Optimizer) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=options.lr, weight_decay=options.weight_decay, fused=True)


def _sgd(parameters: Iterable[nn.Parameter], options: recipe.Optimizer) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        parameters, lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay, fused=True
    )


OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], recipe.Optimizer], torch.optim.Optimizer]] = {
    "adam": _adam,
    "sgd": _sgd,
}
