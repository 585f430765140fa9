"""One entry of a job: train under the masks, evaluate, take down everything, train the controls beside it."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pruning.checkpoints import Checkpoint, Measured, Midway, Offer, OfferMidway, digest_of, untrained_controls
from pruning.data import Dataset, place, preprocessor, with_validation
from pruning.graph import under_every_name
from pruning.learning_rates import Rate, rate_of
from pruning.masks import MaskError, Masks, apply_masks
from pruning.recipe import Recipe
from pruning.rewinding import REWINDS, Origins, State, reinit, restore, snapshot
from pruning.rounds import Round, Stored
from pruning.schedules import check_steps, most_rounds
from pruning.selection import RoundRecord
from pruning.sensitivity import scan
from pruning.training import Diverged, Metrics, Trained, epochs_of, evaluate, steps_of, train

if TYPE_CHECKING:
    from pruning.pruner import Pruner

RoundProgress = Callable[[int | None, int, int], None]
"""progress(number, step, steps); the number is None for the final entry."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Entry:
    """What trains now. `measured`: the entry itself, once its controls train."""

    position: int
    number: int | None
    masks: Masks
    prune_seconds: float
    measured: Measured | None = None


class Trainer:
    """What stays the same from round to round, and the one model that does not."""

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        recipe: Recipe,
        progress: RoundProgress | None,
        device: torch.device,
        offer: Offer | None = None,
    ) -> None:
        self.model = copy.deepcopy(model).to(device)
        self.device = device
        self.origins = Origins(snapshot(model), None, recipe.seed)
        self.dataset = place(with_validation(dataset, recipe.seed), device)
        examples = self.dataset.train.on_device(self.dataset.train.inputs[:2])
        self.example = preprocessor(recipe.training.preprocessing, examples)(examples)
        self._recipe, self._progress, self._offer = recipe, progress, offer
        self.num_steps = steps_of(recipe.training, len(self.dataset.train), self.model)
        check_steps(recipe, self.num_steps)
        self._teacher: nn.Module | None = None

    def learn_origins(self, load: Callable[[int], Stored]) -> None:
        """On a resume: what rounds after round 0 need of it."""
        if self._recipe.needs_round_0:
            self._keep_round_0(load(0))

    def _keep_round_0(self, dense: Stored) -> None:
        if self._recipe.rewinds_weights:
            self.origins = Origins(self.origins.initial, dense.ticket, self._recipe.seed)
        if self._recipe.training.distillation is not None:
            self._teacher = copy.deepcopy(self.model)
            restore(self._teacher, dense.state)
            self._teacher.eval()

    def numbered_round(
        self,
        number: int,
        masks: Masks,
        before: Stored | None,
        pruner: Pruner,
        prune_seconds: float,
        taken_up: Checkpoint | None = None,
    ) -> Round:
        """The model carries the weights to begin from. `before`: the round before, None for round 0 and where a
        checkpoint of this round is taken up."""
        entry = _Entry(number, number, masks, prune_seconds)
        if taken_up is not None and taken_up.measured is not None:
            measured = taken_up.measured
        else:
            continues = self._recipe.between_rounds.weights == "continue"
            epochs_before = number * self._epochs_per_round if continues else 0
            optimizer = before.optimizer if before else None
            measured = self._trained(entry, epochs_before, optimizer, taken_up)
            taken_up = None
        if number:
            self._train_controls(entry, measured, pruner, taken_up)
        sensitivity = None
        if number == 0 and self._recipe.sensitivity is not None:
            started = time.perf_counter()
            sensitivity = scan(self.model, pruner, self._recipe.sensitivity.sparsities, self._validated)
            measured.seconds["sensitivity"] = time.perf_counter() - started
        round_ = self._taken_down(entry, number, measured, pruner, sensitivity)
        if number == 0 and self._recipe.needs_round_0:
            self._keep_round_0(Stored(round_.state, masks, round_.ticket))
        return round_

    def final_round(
        self, position: int, masks: Masks, chosen: RoundRecord, pruner: Pruner, taken_up: Checkpoint | None = None
    ) -> Round:
        """The chosen round's masks, on the weights that the model was given for it."""
        assert chosen.number is not None
        epochs_before = 0
        if self._recipe.finally_.weights == "none":
            continues = self._recipe.between_rounds.weights == "continue"
            epochs_before = (chosen.number + 1 if continues else 1) * self._epochs_per_round
        entry = _Entry(position, None, masks, 0.0)
        if self._recipe.finally_.train:
            measured = self._trained(entry, epochs_before, None, taken_up)
        else:
            apply_masks(dict(self.model.named_parameters()), masks)
            seconds = {"prune": 0.0, "train": 0.0, "evaluate": 0.0}
            measured = Measured(snapshot(self.model), {}, None, 0, seconds, {}, None)
        return self._taken_down(entry, chosen.number, measured, pruner)

    def _trained(
        self, entry: _Entry, epochs_before: int, optimizer: State | None, taken_up: Checkpoint | None
    ) -> Measured:
        """The entry itself, trained and evaluated."""
        started = time.perf_counter() - (taken_up.seconds if taken_up else 0.0)
        trained = self._train(entry, entry.masks, epochs_before, started, optimizer, taken_up)
        if entry.number == 0 and self._recipe.rewinds_weights:
            assert trained.kept is not None, "round 0 trains past the step to rewind to, however early it may stop"
            self.origins = Origins(self.origins.initial, trained.kept, self._recipe.seed)
        trained_at = time.perf_counter()
        metrics = self._evaluate()
        self._check_zeros(entry.masks)
        seconds = {
            "prune": entry.prune_seconds,
            "train": trained_at - started - trained.evaluate_seconds,
            "evaluate": time.perf_counter() - trained_at + trained.evaluate_seconds,
        }
        state = snapshot(self.model)
        return Measured(state, metrics, trained.early_stopping, trained.steps, seconds, {}, trained.optimizer_state)

    def _taken_down(
        self,
        entry: _Entry,
        masks_number: int,
        measured: Measured,
        pruner: Pruner,
        sensitivity: list[dict[str, Any]] | None = None,
    ) -> Round:
        all_masks = under_every_name(entry.masks, self.model)
        return Round(
            position=entry.position,
            number=entry.number,
            sparsity_target=pruner.budget.target(masks_number),
            sparsity_actual=pruner.sparsity(entry.masks),
            masks=all_masks,
            ticket=_masked(self.origins.ticket, all_masks),
            units=pruner.unit_counts(entry.masks),
            seed=self._recipe.seed,
            sensitivity=sensitivity,
            **vars(measured),
        )

    def _train(
        self,
        entry: _Entry,
        masks: Masks,
        epochs_before: int,
        started: float,
        optimizer: State | None,
        taken_up: Checkpoint | None,
        control: str | None = None,
    ) -> Trained:
        """The model under `masks`: those of the entry, or its control's."""
        number, between = entry.number, self._recipe.between_rounds
        first_step, rate = self._pace(number)
        apply_masks(dict(self.model.named_parameters()), masks)
        if self.num_steps == 0:
            return Trained(0, None, 0.0)
        try:
            return train(
                self.model,
                masks,
                self.dataset,
                self._recipe.training,
                seed=self._recipe.seed,
                epoch_offset=epochs_before,
                first_step=first_step,
                rate=rate,
                optimizer_state=optimizer,
                keep_optimizer_state=between.optimizer_state == "keep" and number is not None and control is None,
                keep_step=between.step if number == 0 and self._recipe.rewinds_weights else None,
                teacher=self._teacher,
                progress=self._tell(number, quiet=control is not None),
                midway=taken_up.midway if taken_up else None,
                offer=self._offer_of(entry, started, control),
            )
        except Diverged as diverged:
            diverged.number, diverged.control = number, control
            raise

    def _offer_of(self, entry: _Entry, started: float, control: str | None) -> OfferMidway | None:
        """What `train` is told to offer, with what it does not know of the entry around it."""
        offer = self._offer
        if offer is None:
            return None

        def offer_midway(make: Callable[[], Midway]) -> None:
            offer(
                lambda: Checkpoint(
                    recipe=digest_of(self._recipe),
                    position=entry.position,
                    number=entry.number,
                    masks=entry.masks,
                    prune_seconds=entry.prune_seconds,
                    seconds=time.perf_counter() - started,
                    midway=make(),
                    control=control,
                    measured=entry.measured,
                )
            )

        return offer_midway

    def _tell(self, number: int | None, quiet: bool) -> Callable[[int, int], None] | None:
        """Of a control nothing is told but that it still runs: its round's steps are done."""
        if self._progress is None:
            return None
        tell = partial(self._progress, number)
        return (lambda _step, steps: tell(steps, steps)) if quiet else tell

    def _pace(self, number: int | None) -> tuple[int, Rate | None]:
        """(the step that a round's training begins with, the learning rate's factor; None: the recipe's own)."""
        between, rate = self._recipe.between_rounds, rate_of(self._recipe.training.learning_rate)
        if between.learning_rate == "continue" and number is not None:
            num_rounds = most_rounds(self._recipe) + 1
            return 0, lambda step, steps: rate(number * steps + step, num_rounds * steps)
        if number is None:  # the final entry begins anew, or where the rounds begin
            rewinds = self._recipe.finally_.weights == "rewind" and between.learning_rate == "rewind"
            return (between.step or 0 if rewinds else 0), None
        if number == 0:
            return 0, None
        if between.learning_rate == "constant":
            return 0, lambda _step, steps: rate(steps - 1, steps)
        return (between.step or 0 if between.learning_rate == "rewind" else 0), None

    def _train_controls(
        self, entry: _Entry, measured: Measured, pruner: Pruner, taken_up: Checkpoint | None = None
    ) -> None:
        """With the round's own budget and data order, by a fresh optimiser; `measured` grows by what they measure. A
        checkpoint taken up is of the first of those that are left."""
        number = entry.number
        assert number is not None
        entry = dataclasses.replace(entry, measured=measured)
        for name in untrained_controls(self._recipe, measured):
            started = time.perf_counter() - (taken_up.seconds if taken_up else 0.0)
            if name == "random_reinit":
                under = entry.masks
                reinit(self.model, self.origins, number, "control")
            else:
                under = pruner.random_masks(entry.masks, number)
                REWINDS["rewind" if self._recipe.between_rounds.weights == "rewind" else "reset"](
                    self.model, self.origins, number
                )
            trained = self._train(entry, under, 0, started, None, taken_up, name)
            taken_up = None
            measured.controls[name] = {
                "metrics": self._evaluate(),
                "early_stopping": trained.early_stopping,
                "steps": trained.steps,
                # Random positions may cut the network: of a control that is constant, the metrics say nothing.
                "connected": pruner.is_connected(under),
            }
            measured.seconds[name] = time.perf_counter() - started
        restore(self.model, measured.state)

    def _validated(self, model: nn.Module) -> Metrics:
        assert self.dataset.validation is not None, "with_validation holds one out"
        training = self._recipe.training
        return evaluate(model, self.dataset.validation, training.preprocessing, training.loss)

    def _evaluate(self) -> dict[str, Metrics]:
        splits = {"train": self.dataset.train, "validation": self.dataset.validation, "test": self.dataset.test}
        training = self._recipe.training
        return {
            name: evaluate(self.model, split, training.preprocessing, training.loss)
            for name, split in splits.items()
            if split is not None
        }

    def _check_zeros(self, masks: Masks) -> None:
        parameters = dict(self.model.named_parameters())
        for name, mask in masks.items():
            if bool(parameters[name].detach()[~mask.to(self.device)].any()):
                raise MaskError(f"pruned weights of {name} came back to life in training")

    @property
    def _epochs_per_round(self) -> int:
        return epochs_of(self._recipe.training, len(self.dataset.train), self.model)


def _masked(state: State, masks: Masks) -> dict[str, Any]:
    """A copy of `state` with its pruned entries zero."""
    return {key: t.masked_fill(~masks[key], 0.0) if key in masks else t.clone() for key, t in state.items()}
