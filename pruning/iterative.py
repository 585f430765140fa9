"""The loop: train, prune the least of what remains, rewind, train again.

`prune_iteratively` is a generator of rounds. Whoever iterates stores each round as it comes, stops by no longer
iterating, and resumes by handing in what is stored: the rounds that follow are the same to the bit. Inside a round the
training offers checkpoints, and one that was stored is handed in likewise.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import nn

from pruning.checkpoints import Checkpoint, Misfit, Offer, check_fit
from pruning.data import Dataset
from pruning.pruner import Pruner
from pruning.randomness import CPU
from pruning.recipe import Recipe
from pruning.rewinding import REWINDS
from pruning.rounds import Resume, Round, Stored, UnitCounts
from pruning.selection import last_passing, passes_floor
from pruning.stopping import has_final, is_met
from pruning.trainer import RoundProgress, Trainer

__all__ = ["Resume", "Round", "RoundProgress", "Stored", "UnitCounts", "prune_iteratively"]


def prune_iteratively(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    *,
    resume: Resume | None = None,
    checkpoint: Checkpoint | None = None,
    progress: RoundProgress | None = None,
    offer: Offer | None = None,
    device: torch.device = CPU,
) -> Iterator[Round]:
    """Yield the rounds of `recipe`, round 0 (the dense network) first, and the final entry if the recipe has one.

    Ends where `recipe.stop` or the schedule says, or where nothing is left to prune.

    Args:
        model: carries the first weights; it is copied, and left as it is.
        resume: continue after these rounds instead of beginning.
        checkpoint: go on inside the entry behind those rounds.
        progress: progress(number, step, steps) of the round being trained; what it raises ends the loop.
        offer: offer(make), between any two steps of any training: make() is a checkpoint (`pruning.checkpoints.Offer`).
        device: where to train, a CUDA device by its index. Rounds lie on the CPU, model and dataset may lie there.

    Raises:
        Misfit: the checkpoint is not of this recipe, model or entry (before any training).
        RecipeRefused: the recipe cannot do on this model what it asks for (before any training).
        UntraceableError: the model cannot be followed as a graph.
        MaskError: the masks disconnect the network; names the layer.
        Diverged: a loss was not finite.
    """
    trainer = Trainer(model, dataset, recipe, progress, device, offer)
    pruner = Pruner(trainer, recipe)
    floor = recipe.stop.accuracy_floor
    rounds = list(resume.rounds) if resume else []
    load = resume.load if resume else _nothing_stored
    if rounds and rounds[-1].number is None:
        return  # the final entry is stored: there is no more
    if rounds:
        trainer.learn_origins(load)
    if checkpoint is not None:
        check_fit(checkpoint, recipe, len(rounds), trainer.model, trainer.num_steps)
    latest: Stored | None = None
    passing: Stored | None = None

    while not is_met(recipe, pruner.budget, rounds):
        started, number = time.perf_counter(), len(rounds)
        masks = pruner.dense_masks
        if rounds:
            latest = latest or pruner.take_up(load(rounds[-1].position))
        if checkpoint is not None and checkpoint.number is not None:
            pruner.check_fit(checkpoint, latest.masks if latest else None)
            masks, prune_seconds = checkpoint.masks, checkpoint.prune_seconds
        else:
            if latest is not None:
                masks = pruner.prune(latest.masks, number)
                if pruner.is_exhausted(masks, latest.masks):
                    break  # nothing is left to prune
                REWINDS[recipe.between_rounds.weights](trainer.model, trainer.origins, number)
            _refuse(checkpoint)
            prune_seconds = time.perf_counter() - started
        round_ = trainer.numbered_round(number, masks, latest, pruner, prune_seconds, checkpoint)
        checkpoint = None
        latest = Stored(round_.state, masks, optimizer=round_.optimizer)
        rounds.append(round_.record)
        if last_passing(rounds, floor) is rounds[-1]:
            passing = latest
        yield round_

    if checkpoint is not None and (checkpoint.number is not None or not recipe.finally_.train):
        _refuse(checkpoint)
    if not passes_floor(rounds[0], rounds[0], floor):
        return  # the dense network itself misses an absolute floor: the job ends there
    if has_final(recipe):
        chosen = last_passing(rounds, floor)
        passing = pruner.take_up(passing or load(chosen.position))
        if checkpoint is not None:
            pruner.check_fit(checkpoint, passing.masks)
        REWINDS[recipe.finally_.weights](trainer.model, trainer.origins, len(rounds))
        yield trainer.final_round(len(rounds), passing.masks, chosen, pruner, checkpoint)


def _refuse(checkpoint: Checkpoint | None) -> None:
    """Another entry trains now than the checkpoint's."""
    if checkpoint is not None:
        entry = "the final entry" if checkpoint.number is None else f"round {checkpoint.number}"
        raise Misfit(f"it is of {entry}, which does not follow now")


def _nothing_stored(position: int) -> Stored:
    raise LookupError(f"no round is stored at position {position}")
