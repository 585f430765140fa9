"""The fast loop: the dataset is a tensor, the optimiser is fused, masks cost one product after each step.

The process that calls this sets the number of threads and `torch.set_flush_denormal`, which hold for all of it. The
model is where the dataset's targets are; nothing waits for that device but an evaluation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning.batch_norm import recalibrate_batch_norm
from pruning.batches import batches, epochs_of, steps_of, steps_per_epoch
from pruning.checkpoints import Midway, OfferMidway
from pruning.data import Dataset, Split
from pruning.evaluation import evaluate, evaluating
from pruning.graph import under_every_name
from pruning.learning_rates import Rate, constant, rate_of
from pruning.losses import LOSSES, Metrics, check_loss
from pruning.masks import apply_masks
from pruning.optimizers import OPTIMIZERS, OptimizerState, flat_state, restore_optimizer, set_rate
from pruning.randomness import global_streams
from pruning.rewinding import State, restore, snapshot
from pruning.schedules import RecipeRefused
from pruning.training_options import Training

__all__ = [
    "Diverged",
    "Metrics",
    "OptimizerState",
    "Progress",
    "Trained",
    "epochs_of",
    "evaluate",
    "evaluating",
    "steps_of",
    "steps_per_epoch",
    "train",
]

Progress = Callable[[int, int], None]
"""progress(step, steps). An exception that it raises ends the training: so does a caller stop or pause it."""

PROGRESS_EVERY_STEPS = 10


class Diverged(ArithmeticError):
    """The loss is no longer a number. `number` is the round's, set by the loop; null for the final entry. `control` is
    the name of the round's control, where that diverged and not the round itself."""

    def __init__(self, step: int, number: int | None = None, control: str | None = None) -> None:
        super().__init__(step, number, control)
        self.step = step
        self.number = number
        self.control = control

    def __str__(self) -> str:
        entry = "the final entry" if self.number is None else f"round {self.number}"
        if self.control is not None:
            entry = f"the control {self.control} of {entry}"
        return f"the loss of {entry} is not finite at step {self.step}; lower training.optimizer.lr"


@dataclass(frozen=True, eq=False)
class Trained:
    """
    Attributes:
        steps: those done here, `first_step` and before not among them.
        early_stopping: read afterwards: {"step", "metrics"} of the evaluation of least validation loss. Steps count
            from the beginning of the round; the metrics are from before a recalibration of batch-norm.
        kept: the state after `keep_step` steps of the round, pruned weights zero; None where that was not reached.
        optimizer_state: None unless asked for.
    """

    steps: int
    early_stopping: dict[str, Any] | None
    evaluate_seconds: float
    kept: State | None = None
    optimizer_state: OptimizerState | None = None


def train(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    dataset: Dataset,
    training: Training,
    *,
    seed: int,
    epoch_offset: int = 0,
    first_step: int = 0,
    rate: Rate | None = None,
    optimizer_state: Mapping[str, Tensor] | None = None,
    keep_optimizer_state: bool = False,
    teacher: nn.Module | None = None,
    keep_step: int | None = None,
    progress: Progress | None = None,
    midway: Midway | None = None,
    offer: OfferMidway | None = None,
) -> Trained:
    """Train `model` in place; masked weights are exactly zero after every step.

    Args:
        masks: by parameter name; parameters without a mask train freely.
        dataset: with a validation split.
        epoch_offset: epochs these weights have trained before; the data order of epoch e comes from (seed, e) alone.
        first_step: go on as if so many steps of this round were done: data order, learning rate, dropout and
            evaluations are those of an uninterrupted training, whose bits this one's are if `optimizer_state` is given
            (batch-norm's statistics are in the model). Patience and the least loss begin anew.
        rate: (step, steps of the round) -> the learning rate's factor; left out, the recipe's schedule.
        optimizer_state: what `Trained.optimizer_state` was; left out, a fresh optimiser.
        teacher: of the recipe's distillation, in evaluation mode; without one, nothing is distilled.
        keep_step: keep the state after so many steps of the round; early stopping waits for it.
        progress: progress(step, steps of the round), every ten steps.
        midway: go on from there, with its weights, optimiser and early stopping, to the bits of the training that
            offered it; all other arguments as they were. It is emptied.
        offer: offer(make) before the first step and after each; make() is the training midway, as of now.

    Raises:
        Diverged: a loss was not finite; names the first step at which it was not.
        RecipeRefused: batches of one example, and batch-norm; the loss, augmentation or memory format does not fit the
            dataset or the model; `first_step` lies behind the end.
    """
    assert dataset.validation is not None
    check_loss(training.loss, dataset)
    num_steps = steps_of(training, len(dataset.train), model)
    if first_step >= num_steps:
        raise RecipeRefused(
            ("between_rounds", "step"), f"step {first_step} lies behind the {num_steps} steps of a round; lower it"
        )
    evaluate_every = training.evaluate_every_steps or steps_per_epoch(training, len(dataset.train), model)
    patience = training.early_stopping.patience if training.early_stopping else math.inf
    start = midway or Midway(first_step, {}, dict(optimizer_state or {}))
    step, best_step, best, since_best = start.step, start.best_step, start.best, start.since_best
    evaluate_seconds = start.evaluate_seconds
    rate = rate or rate_of(training.learning_rate)
    parameters = dict(model.named_parameters())
    if midway is None:
        apply_masks(parameters, masks)
    else:  # as it is: zeros that the product with a mask has made negative are part of it
        restore(model, midway.state)

    device = dataset.train.device
    with (
        _memory_format(model, dataset.train, training),
        global_streams(seed, "dropout", epoch_offset, device=device) as draw_dropout_of,
    ):
        trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        optimizer = OPTIMIZERS[training.optimizer.name](trained.values(), training.optimizer)
        restore_optimizer(optimizer, trained, start.optimizer)
        for taken_up in (start.state, start.optimizer):
            taken_up.clear()  # room that an undisturbed training would have, too
        pruned = [name for name, mask in masks.items() if not bool(mask.all())]
        weights = [parameters[name].detach() for name in pruned]
        factors = [torch.empty_like(parameters[name]).detach().copy_(masks[name]) for name in pruned]
        loss_of = _objective(model, training, teacher, device)
        kept = _kept(model, masks) if keep_step == start.step else start.kept
        losses: list[Tensor] = []

        def is_over() -> bool:
            waits = keep_step is not None and step < keep_step
            return step == num_steps or (since_best >= patience and step % evaluate_every == 0 and not waits)

        def as_of_now() -> Midway:
            _check_finite(losses, step)
            losses.clear()
            state = {key: tensor.detach().cpu() for key, tensor in model.state_dict().items()}
            slots = flat_state(optimizer, trained, copy=False)
            return Midway(step, state, slots, kept, best_step, best, since_best, evaluate_seconds)

        model.train()
        if offer is not None:
            offer(as_of_now)
        there = () if is_over() else batches(dataset.train, training, model, seed, epoch_offset, step)
        for step, (inputs, targets) in enumerate(there, start.step + 1):
            draw_dropout_of(step)
            if rate is not constant:
                set_rate(optimizer, training.optimizer, rate(step - 1, num_steps))
            loss = loss_of(inputs, targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if pruned:
                # Momentum, weight decay and Adam's state revive a weight whose gradient alone is masked.
                torch._foreach_mul_(weights, factors)

            if step == keep_step:
                kept = _kept(model, masks)
            losses.append(loss.detach())  # looked at together: each look would wait for a GPU
            if step % PROGRESS_EVERY_STEPS == 0 or step % evaluate_every == 0 or step == num_steps:
                _check_finite(losses, step)
                losses.clear()
            if step % evaluate_every == 0 or step == num_steps:
                started = time.perf_counter()
                metrics = evaluate(model, dataset.validation, training.preprocessing, training.loss)
                evaluate_seconds += time.perf_counter() - started
                if not math.isfinite(metrics["loss"]):
                    raise Diverged(step)
                since_best += 1
                if best is None or metrics["loss"] < best["loss"]:
                    best_step, best, since_best = step, metrics, 0
            if progress is not None and (step % PROGRESS_EVERY_STEPS == 0 or step == num_steps):
                progress(step, num_steps)
            if offer is not None:
                offer(as_of_now)
            if is_over():
                break

        optimizer.zero_grad()
        slots = flat_state(optimizer, trained) if keep_optimizer_state else None
        if training.recalibrate_batch_norm:
            recalibrate_batch_norm(model, dataset.train, training, seed, epoch_offset)

    apply_masks(parameters, masks)  # a negative weight times zero is -0.0; what is stored is +0.0
    return Trained(step - first_step, {"step": best_step, "metrics": best}, evaluate_seconds, kept, slots)


def _check_finite(losses: Sequence[Tensor], step: int) -> None:
    """`losses` are those of the steps up to `step`. Raises Diverged."""
    if not losses:
        return
    wrong = (~torch.isfinite(torch.stack(list(losses)))).nonzero()
    if len(wrong):
        raise Diverged(step - len(losses) + 1 + int(wrong[0]))


def _objective(
    model: nn.Module, training: Training, teacher: nn.Module | None, device: torch.device
) -> Callable[[Tensor, Tensor], Tensor]:
    """(inputs, targets) -> the loss that is minimised; what the recipe does not ask for costs nothing."""
    row, smoothing, distillation = LOSSES[training.loss], training.label_smoothing, training.distillation

    def forward(network: nn.Module, inputs: Tensor) -> Tensor:
        if training.precision == "float32":
            outputs: Tensor = network(inputs)
            return outputs
        with torch.autocast(device.type, dtype=torch.bfloat16):
            outputs = network(inputs)
        return outputs.float()  # losses are in float32

    if distillation is None or teacher is None:
        return lambda inputs, targets: row.training(forward(model, inputs), targets, smoothing)
    weight, temperature, guide = distillation.weight, distillation.temperature, teacher

    def distilled(inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            told = forward(guide, inputs)
        outputs = forward(model, inputs)
        taught = row.distillation(outputs, told, targets, temperature)
        return (1 - weight) * row.training(outputs, targets, smoothing) + weight * taught

    return distilled


def _kept(model: nn.Module, masks: Mapping[str, Tensor]) -> State:
    state = {key: tensor.contiguous() for key, tensor in snapshot(model).items()}
    apply_masks(state, under_every_name(dict(masks), model))
    return state


@contextmanager
def _memory_format(model: nn.Module, split: Split, training: Training) -> Iterator[None]:
    """The model channels last where the recipe says so and examples are images; contiguous again afterwards."""
    if not training.channels_last or split.inputs.dim() != 4:
        yield
        return
    images = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.dim() == 4]
    try:
        _lay_out(images, torch.channels_last)
        inputs, _ = next(batches(split, training, model, seed=0))
        try:
            with evaluating(model), torch.no_grad():
                model(inputs[:2])
        except RuntimeError as error:
            raise RecipeRefused(
                ("training", "channels_last"), f"the model needs contiguous images ({error}); leave it out"
            ) from error
        yield
    finally:
        _lay_out(images, torch.contiguous_format)


def _lay_out(tensors: list[Tensor], memory_format: torch.memory_format) -> None:
    for tensor in tensors:
        tensor.data = tensor.data.contiguous(memory_format=memory_format)
