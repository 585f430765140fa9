"""What goes in a round: the model scored, exactly k of least score taken away, the result checked."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pruning.budgets import RecipeRefused
from pruning.checkpoints import Checkpoint, Misfit
from pruning.connectivity import check_connected
from pruning.criteria import CRITERIA
from pruning.evidence import Evidence
from pruning.granularity import what_competes
from pruning.losses import LOSSES
from pruning.masks import MaskError, Masks, apply_masks, check_masks
from pruning.randomness import generator, global_stream
from pruning.recipe import Recipe
from pruning.rewinding import restore
from pruning.rounds import Stored, UnitCounts
from pruning.scopes import count_kept, scope_of, shuffled
from pruning.trainer import Trainer
from pruning.units import kept_units

_OF_PRUNING = ("exactly k pruned", "masks only shrink", "no layer is empty", "the network is connected")
_OF_TRAINING = ("pruned weights are zero after training",)


def invariants_checked(number: int | None) -> tuple[str, ...]:
    """What was checked at run time in the round of that number; a report says so.

    Round 0 and the final entry (None) prune nothing: their masks are everything, and those of a round before.
    """
    return (*_OF_PRUNING, *_OF_TRAINING) if number else _OF_TRAINING


class Pruner:
    """
    Raises:
        UntraceableError: the model cannot be followed as a graph.
        RecipeRefused: the recipe cannot do on this model what it asks for.
    """

    def __init__(self, trainer: Trainer, recipe: Recipe) -> None:
        self._trainer, self._recipe = trainer, recipe
        self._competition = what_competes(trainer.model, trainer.example, recipe)
        self.budget = self._competition.budget
        self.dense_masks = self._competition.everything()
        if recipe.criterion.name == "synflow" and not trainer.example.is_floating_point():
            raise RecipeRefused(
                ("criterion", "name"), "synflow sends ones through the model, which takes tokens; use snip"
            )

    def take_up(self, stored: Stored) -> Stored:
        """Set the model to a round's state. Its masks come back without the further names of tied weights."""
        restore(self._trainer.model, stored.state)
        masks = self._competition.masks(self._competition.kept(stored.masks))
        return Stored(stored.state, masks, stored.ticket, stored.optimizer)

    def prune(self, masks: Masks, number: int) -> Masks:
        """Masks without the k of least score, of the model as it is or, for criteria at the start, as it first was.

        Raises:
            MaskError: the result breaks an invariant.
            RecipeRefused: scores are not numbers.
        """
        recipe, budget = self._recipe, self.budget
        criterion = CRITERIA[recipe.criterion.name]
        draws, ties = (generator(recipe.seed, purpose, number) for purpose in ("criterion", "ties"))
        loss = LOSSES[recipe.training.loss]
        evidence = Evidence(
            self._trainer.dataset.train,
            recipe.training.preprocessing,
            self._competition.groups,
            generator=draws,
            loss_fn=lambda outputs, targets: loss.training(outputs, targets, 0.0),
            count=loss.count,
        )
        by = criterion.by if recipe.criterion.keep != "low" else lambda score: -criterion.by(score)
        model = self._first(masks) if criterion.at_start else self._trainer.model
        kept = self._competition.kept(masks)
        before = count_kept(kept)
        counts = budget.counts(before, number)
        for part in budget.in_steps(before, counts, criterion.iterations):
            with global_stream(recipe.seed, "criterion", number, device=self._trainer.device):
                found = criterion.score(model, self._competition.masks(kept), evidence)
            scores = self._competition.scores({key: score.cpu() for key, score in found.items()}, recipe.criterion.name)
            self._refuse_nan(scores, kept)
            scores, compared_by = self._competition.anchored(scores, kept, ties, by)
            kept = scope_of(budget)(scores, kept, part, budget, ties, compared_by)
        pruned = self._competition.masks(kept)
        self.check(pruned, masks, number)
        return pruned

    def check(self, pruned: Masks, masks: Masks, number: int) -> None:
        """That `pruned` is what the round of that number may make of `masks`. Raises MaskError."""
        before, after = (count_kept(self._competition.kept(some)) for some in (masks, pruned))
        count = sum(self.budget.counts(before, number).values())
        if sum(before.values()) - sum(after.values()) != count:
            raise MaskError(f"round {number} was to prune {count} and pruned another number")
        check_masks(pruned, masks)
        check_connected(self._trainer.model, pruned, self._trainer.example)

    def check_fit(self, checkpoint: Checkpoint, before: Masks | None) -> None:
        """That its masks are those of its entry. `before`: of the round before, of the final entry its own; None for
        round 0. Raises Misfit."""
        masks, number = checkpoint.masks, checkpoint.number
        if masks.keys() != self.dense_masks.keys():
            raise Misfit("its masks are of other layers")
        try:
            if number and before is not None:
                self.check(masks, before, number)
        except (MaskError, RecipeRefused) as error:
            raise Misfit(str(error)) from error
        if not number and not all(torch.equal(masks[k], m) for k, m in (before or self.dense_masks).items()):
            raise Misfit("its masks are not those of its entry")

    def _refuse_nan(self, scores: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
        name = self._recipe.criterion.name
        for layer, score in scores.items():
            # The least of them is NaN where any is; only then a copy of the kept ones is made.
            if bool(score.min().isnan()) and bool(score[kept[layer]].isnan().any()):
                raise RecipeRefused(
                    ("criterion", "name"),
                    f"the scores that {name} gives layer {layer} are not all numbers: something overflows; scale the "
                    "inputs (training.preprocessing), or use magnitude",
                )

    def _first(self, masks: Masks) -> nn.Module:
        model = copy.deepcopy(self._trainer.model)
        restore(model, self._trainer.origins.initial)
        apply_masks(dict(model.named_parameters()), masks)
        return model

    def is_exhausted(self, masks: Masks, before: Masks) -> bool:
        """Nothing went, and never will again. Other schedules than a fraction may rest for a round."""
        return self._recipe.schedule.kind == "fraction" and self.sparsity(masks) == self.sparsity(before)

    def sparsity(self, masks: Masks) -> float:
        return self.budget.sparsity(count_kept(self._competition.kept(masks)))

    def unit_counts(self, masks: Masks) -> UnitCounts | None:
        groups = self._competition.groups
        if not groups:
            return None
        unit_masks = self._competition.kept(masks)
        num_kept = sum(count_kept(unit_masks).values())
        return UnitCounts(self.budget.size, num_kept, kept_units(unit_masks, groups))

    def random_masks(self, masks: Masks, number: int) -> Masks:
        """As many of every layer at random positions, in the recipe's structure: a control (Frankle et al. 2021)."""
        draws = generator(self._recipe.seed, "random masks", number)
        return self._competition.masks(shuffled(self._competition.kept(masks), self.budget, draws))

    def is_connected(self, masks: Masks) -> bool:
        """Whether anything gets through the network under these masks, of a control that no round goes on from."""
        try:
            check_connected(self._trainer.model, masks, self._trainer.example)
        except MaskError:
            return False
        return True
