"""What training inside an entry needs to go on to the same bits, and the check that it belongs where it is taken up.

No state of a random generator is in it: whatever is drawn comes from a stream that is named by its step, its epoch or
its round (`pruning.randomness`), so the position says it all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning.losses import Metrics
from pruning.masks import Masks
from pruning.optimizers import SLOTS, OptimizerState
from pruning.recipe import Recipe
from pruning.rewinding import State


class Misfit(ValueError):
    """A checkpoint that is not of this recipe, model or entry: whoever has it goes on without."""


@dataclass(frozen=True, eq=False)
class Midway:
    """One training between two of its steps.

    Attributes:
        step: steps of the round that are done; a training that rewinds the learning rate counts from its first step.
        state, optimizer: on a CPU the training's own tensors, no copies: they change with its next step.
        kept: the state after the step to rewind to; None where that is not reached, or none is asked for.
        best_step, best: early stopping's least validation loss so far; None before the first evaluation.
        since_best: evaluations since then.
        evaluate_seconds: spent on evaluations.
    """

    step: int
    state: State
    optimizer: OptimizerState
    kept: State | None = None
    best_step: int = 0
    best: Metrics | None = None
    since_best: int = 0
    evaluate_seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Measured:
    """An entry as its own training left it. `controls` and `seconds` grow with each control that is trained beside."""

    state: State
    metrics: dict[str, Metrics]
    early_stopping: dict[str, Any] | None
    steps: int
    seconds: dict[str, float]
    controls: dict[str, dict[str, Any]]
    optimizer: State | None


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """
    Attributes:
        recipe: its digest (`digest_of`).
        position: of the entry that trains.
        number: the round's; None for the final entry.
        masks: of the entry, by parameter name. With them its pruning need not be repeated.
        prune_seconds: what that took.
        seconds: of the training that is midway, so far.
        control: the name of the control that trains; None where the entry itself does.
        measured: the entry itself, where a control of it trains.
    """

    recipe: str
    position: int
    number: int | None
    masks: Masks
    prune_seconds: float
    seconds: float
    midway: Midway
    control: str | None = None
    measured: Measured | None = None

    @property
    def step(self) -> int:
        """Steps of the entry that are done, its controls' among them: it only rises while an entry trains."""
        done = self.measured
        before = done.steps + sum(control["steps"] for control in done.controls.values()) if done else 0
        return before + self.midway.step


Offer = Callable[[Callable[[], Checkpoint]], None]
"""offer(make), between any two steps: make() is the checkpoint as of now, to be written before `offer` returns. An
exception that `offer` raises ends the training."""

OfferMidway = Callable[[Callable[[], Midway]], None]


def digest_of(recipe: Recipe) -> str:
    return hashlib.sha256(json.dumps(recipe.to_json(), sort_keys=True).encode()).hexdigest()


def check_fit(checkpoint: Checkpoint, recipe: Recipe, position: int, model: nn.Module, num_steps: int) -> None:
    """What can be said of a checkpoint without the rounds before it; its masks are the pruner's to check.

    Args:
        position: of the entry that follows on what is stored.
        num_steps: of a round's training.

    Raises:
        Misfit: says what does not fit.
    """
    midway, measured = checkpoint.midway, checkpoint.measured
    wrong = {
        "it is of another recipe": checkpoint.recipe != digest_of(recipe),
        f"it is of position {checkpoint.position}, not {position}": checkpoint.position != position,
        f"it is of round {checkpoint.number}": checkpoint.number not in (None, position),
        f"it is at step {midway.step}": not 0 <= midway.step <= num_steps,
        "it is of a control, or of none": (checkpoint.control is None) != (measured is None),
        f"{checkpoint.control} is no control to train now": measured is not None
        and (not checkpoint.number or checkpoint.control not in untrained_controls(recipe, measured)[:1]),
    }
    for reason, holds in wrong.items():
        if holds:
            raise Misfit(reason)
    _check_masks(checkpoint.masks, dict(model.named_parameters()))
    own_masks = checkpoint.masks if checkpoint.control in (None, "random_reinit") else {}
    _check_state(midway.state, own_masks, model)
    _check_slots(midway.optimizer, recipe, model)
    if midway.kept is not None:
        _check_state(midway.kept, checkpoint.masks, model)
    if measured is not None:
        _check_state(measured.state, checkpoint.masks, model)
        _check_slots(measured.optimizer or {}, recipe, model)
        if (measured.optimizer is None) != (recipe.between_rounds.optimizer_state != "keep"):
            raise Misfit("it lacks the optimiser's state of its entry, or has one that nobody keeps")


def untrained_controls(recipe: Recipe, measured: Measured) -> list[str]:
    """Controls train in the recipe's order."""
    return [name for name in recipe.controls if name not in measured.controls]


def _check_masks(masks: Masks, parameters: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        if name not in parameters or mask.shape != parameters[name].shape or mask.dtype != torch.bool:
            raise Misfit(f"its mask {name} is none of this model's")


def _check_state(state: State, masks: Masks, model: nn.Module) -> None:
    wanted = model.state_dict()
    if state.keys() != wanted.keys():
        raise Misfit("its state has other keys than the model's")
    for key, tensor in state.items():
        if tensor.shape != wanted[key].shape or tensor.dtype != wanted[key].dtype:
            raise Misfit(f"{key} is {tensor.dtype} {tuple(tensor.shape)}, not as the model's")
    for name, mask in masks.items():
        if bool(state[name][~mask].any()):
            raise Misfit(f"pruned weights of {name} are not zero")


def _check_slots(slots: OptimizerState, recipe: Recipe, model: nn.Module) -> None:
    """Each parameter has all of its optimiser's slots, or none yet."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    found: dict[str, set[str]] = {}
    for key, value in slots.items():
        name, _, slot = key.rpartition("/")
        if (
            name not in trained
            or (slot != "step" and value.shape != trained[name].shape)
            or not value.is_floating_point()
        ):
            raise Misfit(f"the optimiser state {key} is none of this model's")
        if slot == "step" and value.numel() != 1:
            raise Misfit(f"the optimiser state {key} is no number")
        found.setdefault(name, set()).add(slot)
    options = recipe.training.optimizer
    if any(names != SLOTS[options.name] for names in found.values()) or (
        found and options.name == "sgd" and not options.momentum
    ):
        raise Misfit(f"its optimiser is not {options.name}")
