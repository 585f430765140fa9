"""The loop: train, prune the least of what remains, rewind, train again.

`prune_iteratively` is a generator of rounds. Whoever iterates stores each round as it comes, stops by no longer
iterating, and resumes by handing in what is stored: the rounds that follow are the same to the bit.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import nn

from pruning.connectivity import check_connected
from pruning.criteria import CRITERIA, Evidence
from pruning.data import Dataset, place, preprocessor, with_validation
from pruning.granularity import what_competes
from pruning.graph import under_every_name
from pruning.masks import Masks, apply_masks, check_masks
from pruning.randomness import CPU, generator
from pruning.recipe import MAX_ROUNDS, Recipe, Stop
from pruning.rewinding import REWINDS, State, restore, snapshot
from pruning.rounds import Resume, Round, Stored, UnitCounts
from pruning.schedules import target_sparsity
from pruning.scopes import SCOPES, count_kept
from pruning.selection import RoundRecord, last_passing, passes_floor
from pruning.training import Diverged, Metrics, Trained, epochs_of, evaluate, train
from pruning.units import kept_units

__all__ = ["Resume", "Round", "Stored", "UnitCounts", "prune_iteratively"]

RoundProgress = Callable[[int | None, int, int], None]
"""progress(number, step, steps); the number is None for the final entry."""


def prune_iteratively(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    *,
    resume: Resume | None = None,
    progress: RoundProgress | None = None,
    device: torch.device = CPU,
) -> Iterator[Round]:
    """Yield the rounds of `recipe`, round 0 (the dense network) first, and the final entry if the recipe has one.

    Ends where `recipe.stop` says, or where nothing is left to prune.

    Args:
        model: carries the first weights; it is copied, and left as it is.
        resume: continue after these rounds instead of beginning.
        progress: progress(number, step, steps) of the round being trained; what it raises ends the loop.
        device: where to train, a CUDA device by its index. Rounds lie on the CPU, model and dataset may lie there.

    Raises:
        RecipeRefused: the recipe cannot do on this model what it asks for (before any training).
        UntraceableError: the model cannot be followed as a graph.
        MaskError: the masks disconnect the network; names the layer.
        Diverged: a loss was not finite.
    """
    job = _Job(model, dataset, recipe, progress, device)
    floor = recipe.stop.accuracy_floor
    rounds = list(resume.rounds) if resume else []
    load = resume.load if resume else _nothing_stored
    if rounds and rounds[-1].number is None:
        return  # the final entry is stored: there is no more
    latest: Stored | None = None
    passing: Stored | None = None

    while not _is_met(recipe.stop, rounds):
        started = time.perf_counter()
        masks = job.dense_masks
        if rounds:
            latest = latest or job.take_up(load(rounds[-1].position))
            masks = job.prune(latest.masks, number=len(rounds))
            if job.sparsity(masks) == job.sparsity(latest.masks):
                break  # nothing is left to prune
            REWINDS[recipe.between_rounds.weights](job.model, job.initial)
        round_ = job.numbered_round(len(rounds), masks, time.perf_counter() - started)
        latest = Stored(round_.state, masks)
        rounds.append(round_.record)
        if last_passing(rounds, floor) is rounds[-1]:
            passing = latest
        yield round_

    if not passes_floor(rounds[0], rounds[0], floor):
        return  # the dense network itself misses an absolute floor: the job ends there
    if recipe.finally_.weights != "none" or recipe.finally_.train:
        chosen = last_passing(rounds, floor)
        passing = job.take_up(passing or load(chosen.position))
        REWINDS[recipe.finally_.weights](job.model, job.initial)
        yield job.final_round(len(rounds), passing.masks, chosen)


def _is_met(stop: Stop, rounds: Sequence[RoundRecord]) -> bool:
    """Whether the last of these rounds ends the loop."""
    if not rounds:
        return False
    last, dense = rounds[-1], rounds[0]
    return (
        len(rounds) > (stop.rounds or MAX_ROUNDS)
        or (stop.sparsity is not None and last.sparsity >= stop.sparsity)
        or not passes_floor(last, dense, stop.accuracy_floor)
    )


def _nothing_stored(position: int) -> Stored:
    raise LookupError(f"no round is stored at position {position}")


class _Job:
    """What stays the same from round to round, and the one model that does not."""

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        recipe: Recipe,
        progress: RoundProgress | None,
        device: torch.device,
    ) -> None:
        self.model = copy.deepcopy(model).to(device)
        self.initial = snapshot(model)
        self.dataset = place(with_validation(dataset, recipe.seed), device)
        self.recipe = recipe
        self.progress = progress
        examples = self.dataset.train.on_device(self.dataset.train.inputs[:2])
        prepare = preprocessor(recipe.training.preprocessing, examples)
        self.example = prepare(examples)
        self.competition = what_competes(self.model, self.example, recipe)
        self.dense_masks = self.competition.everything()

    def take_up(self, stored: Stored) -> Stored:
        """Set the model to a round's state. Its masks come back without the further names of tied weights."""
        restore(self.model, stored.state)
        return Stored(stored.state, self.competition.masks(self.competition.kept(stored.masks)))

    def prune(self, masks: Masks, number: int) -> Masks:
        """Masks without the k of least score of the model as it is, trained."""
        name, keep = self.recipe.criterion.name, self.recipe.criterion.keep
        draws, ties = (generator(self.recipe.seed, purpose, number) for purpose in ("criterion", "ties"))
        evidence = Evidence(
            self.dataset.train, self.recipe.training.preprocessing, self.competition.groups, generator=draws
        )
        found = {key: score.cpu() for key, score in CRITERIA[name](self.model, masks, evidence).items()}
        scores = self.competition.scores(found, name)
        if keep == "low":
            scores = {layer: -score for layer, score in scores.items()}
        kept = SCOPES[self.recipe.scope.kind](
            scores, self.competition.kept(masks), self.recipe, self.competition.overrides, ties
        )
        pruned = self.competition.masks(kept)
        check_masks(pruned, masks)
        check_connected(self.model, pruned, self.example)
        return pruned

    def sparsity(self, masks: Masks) -> float:
        kept = count_kept(self.competition.kept(masks))
        return 1 - sum(kept.values()) / sum(size.size for size in self.competition.sizes)

    def numbered_round(self, number: int, masks: Masks, prune_seconds: float) -> Round:
        epochs_before = number * self._epochs_per_round if self.recipe.between_rounds.weights == "continue" else 0
        return self._round(number, number, masks, number, epochs_before, prune_seconds)

    def final_round(self, position: int, masks: Masks, chosen: RoundRecord) -> Round:
        """The chosen round's masks, on the weights that the model was given for it."""
        assert chosen.number is not None
        epochs_before = 0
        if self.recipe.finally_.weights == "none":
            rounds_before = chosen.number + 1 if self.recipe.between_rounds.weights == "continue" else 1
            epochs_before = rounds_before * self._epochs_per_round
        return self._round(position, None, masks, chosen.number, epochs_before, prune_seconds=0.0)

    def _round(
        self,
        position: int,
        number: int | None,
        masks: Masks,
        masks_number: int,
        epochs_before: int,
        prune_seconds: float,
    ) -> Round:
        """Train (unless it is a final entry that is not to be), evaluate, and take down everything."""
        started = time.perf_counter()
        apply_masks(dict(self.model.named_parameters()), masks)
        trains = number is not None or self.recipe.finally_.train
        trained = self._train(masks, number, epochs_before) if trains else None
        trained_at = time.perf_counter()
        metrics = self._evaluate() if trains else {}
        evaluate_seconds = trained.evaluate_seconds if trained else 0.0

        all_masks = under_every_name(masks, self.model)
        return Round(
            position=position,
            number=number,
            sparsity_target=target_sparsity(
                self.competition.sizes, self.recipe, self.competition.overrides, masks_number
            ),
            sparsity_actual=self.sparsity(masks),
            state=snapshot(self.model),
            masks=all_masks,
            ticket=_masked(self.initial, all_masks),
            units=self._unit_counts(masks),
            metrics=metrics,
            early_stopping=trained.early_stopping if trained else None,
            steps=trained.steps if trained else 0,
            seconds={
                "prune": prune_seconds,
                "train": trained_at - started - evaluate_seconds,
                "evaluate": time.perf_counter() - trained_at + evaluate_seconds,
            },
        )

    def _train(self, masks: Masks, number: int | None, epochs_before: int) -> Trained:
        try:
            return train(
                self.model,
                masks,
                self.dataset,
                self.recipe.training,
                seed=self.recipe.seed,
                epoch_offset=epochs_before,
                progress=partial(self.progress, number) if self.progress else None,
            )
        except Diverged as diverged:
            diverged.number = number
            raise

    def _evaluate(self) -> dict[str, Metrics]:
        splits = {"train": self.dataset.train, "validation": self.dataset.validation, "test": self.dataset.test}
        preprocessing = self.recipe.training.preprocessing
        return {name: evaluate(self.model, split, preprocessing) for name, split in splits.items() if split is not None}

    def _unit_counts(self, masks: Masks) -> UnitCounts | None:
        if not self.competition.groups:
            return None
        unit_masks = self.competition.kept(masks)
        num_units = sum(size.size for size in self.competition.sizes)
        num_kept = sum(count_kept(unit_masks).values())
        return UnitCounts(num_units, num_kept, kept_units(unit_masks, self.competition.groups))

    @property
    def _epochs_per_round(self) -> int:
        return epochs_of(self.recipe.training, len(self.dataset.train), self.model)


def _masked(state: State, masks: Masks) -> State:
    """A copy of `state` with its pruned entries zero."""
    return {key: t.masked_fill(~masks[key], 0.0) if key in masks else t.clone() for key, t in state.items()}
