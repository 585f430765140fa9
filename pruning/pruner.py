"""What goes in a round: the model scored, exactly k of least score taken away, the result checked."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from pruning.budgets import RecipeRefused, count_to_prune
from pruning.checkpoints import Checkpoint, Misfit
from pruning.connectivity import check_connected
from pruning.criteria import CRITERIA
from pruning.evidence import Evidence
from pruning.granularity import what_competes
from pruning.losses import LOSSES
from pruning.masks import MaskError, Masks, apply_masks, check_masks, prune_smallest
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
        budget, score = self.budget, self._scorer(masks, number)
        ties = generator(self._recipe.seed, "ties", number)
        kept = self._competition.kept(masks)
        before = count_kept(kept)
        counts = budget.counts(before, number)
        for part in budget.in_steps(before, counts, CRITERIA[self._recipe.criterion.name].iterations):
            scores, by = self._competition.anchored(score(kept), kept, ties, self._by)
            kept = scope_of(budget)(scores, kept, part, budget, ties, by)
        pruned = self._competition.masks(kept)
        self.check(pruned, masks, number)
        return pruned

    def each_alone(self, sparsities: Sequence[float]) -> Iterator[tuple[str, int, float, Masks]]:
        """(layer, its size, the fraction of it that is removed, masks): of the dense network each layer alone is pruned
        to each sparsity, by scores of one pass; what always stays in it stays.

        Raises:
            RecipeRefused: scores are not numbers.
        """
        kept = self._competition.kept(self.dense_masks)
        ties = generator(self._recipe.seed, "ties", 0)
        scores, by = self._competition.anchored(self._scorer(self.dense_masks, 0)(kept), kept, ties, self._by)
        for layer, whole in kept.items():
            most = whole.numel() - self.budget.floor_of(layer)
            for sparsity in sparsities:
                count = min(most, count_to_prune(whole.numel(), sparsity, self._recipe.granularity))
                left = prune_smallest({layer: scores[layer]}, {layer: whole}, count, ties, by)
                yield layer, whole.numel(), count / whole.numel(), self._competition.masks(kept | left)

    def _scorer(self, masks: Masks, number: int) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
        """kept -> scores, of the model as it is or, for criteria at the start, as it first was under `masks`."""
        recipe, trainer = self._recipe, self._trainer
        criterion, loss = CRITERIA[recipe.criterion.name], LOSSES[recipe.training.loss]
        evidence = Evidence(
            trainer.dataset.train,
            recipe.training.preprocessing,
            self._competition.groups,
            generator=generator(recipe.seed, "criterion", number),
            loss_fn=lambda outputs, targets: loss.training(outputs, targets, 0.0),
            count=loss.count,
        )
        model = self._first(masks) if criterion.at_start else trainer.model

        def score(kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
            with global_stream(recipe.seed, "criterion", number, device=trainer.device):
                found = criterion.score(model, self._competition.masks(kept), evidence)
            scores = self._competition.scores({key: score.cpu() for key, score in found.items()}, recipe.criterion.name)
            self._refuse_nan(scores, kept)
            return scores

        return score

    def _by(self, scores: Tensor) -> Tensor:
        """What scores compare by: the least go."""
        by = CRITERIA[self._recipe.criterion.name].by
        return -by(scores) if self._recipe.criterion.keep == "low" else by(scores)

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
