"""Which recipe and which round to take: the goal that a caller sets, and the row that meets it. Torch-free.

A round meets the goal where it holds in enough seeds, each for itself: `margin` is how far it is beyond the goal's
level, so below 0 it missed it. What `keep_ratio` is taken of is, seed by seed, the best dense network among the
recipes: a recipe whose own dense network is poor has it no easier.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from pruning.comparing import LOWER_IS_BETTER, Entry, MeasuredRound, Row, entries_of, oriented, table
from pruning.recipe import refused_at
from pruning.selection import COMPARE, Gate
from pruning.training_options import Section


class Goal(Section):
    """`{"metric": "accuracy", "keep_ratio": 0.99, "want": "smallest"}`: the smallest network that keeps 99% of the
    dense one's validation accuracy in every seed."""

    metric: Literal["accuracy", "loss", "f1", "mae", "r2", "perplexity"] = Field(
        description="of validation; one that the recipes' loss measures"
    )
    keep_ratio: float | None = Field(
        None,
        gt=0,
        le=1,
        description="of the best dense network's in the same seed; where less is better, at most dense / keep_ratio",
    )
    value: float | None = Field(None, allow_inf_nan=False, description="at least this; at most, where less is better")
    min_removed: float | None = Field(None, gt=0, lt=1, description="fraction of all parameters, at least")
    want: Literal["smallest", "best"] = "smallest"
    min_seeds: int | None = Field(None, ge=1, description="in how many seeds it has to hold; null: in all")

    @model_validator(mode="after")
    def _says_what_counts(self) -> Self:
        if self.keep_ratio is not None and self.value is not None:
            raise PydanticCustomError("goal_twice", "give either keep_ratio or value, not both")
        if self.keep_ratio is None and self.value is None and (self.want == "smallest" or self.min_removed is None):
            needed = "keep_ratio or value" if self.want == "smallest" else "keep_ratio, value or min_removed"
            raise PydanticCustomError(
                "goal_without_level", "{needed} is needed: else nothing could miss the goal", {"needed": needed}
            )
        if self.keep_ratio is not None and self.metric == "r2":
            raise refused_at(
                ("keep_ratio",),
                PydanticCustomError("ratio_of_r2", "r2 can be negative, and a part of it says nothing; give value"),
            )
        return self


@dataclass(frozen=True)
class Trial:
    """A round in one seed."""

    seed: int
    job: str
    position: int
    value: float
    level: float | None
    """What it had to reach; None: nothing was asked of it, or there is no dense network to measure it by."""
    margin: float | None
    holds: bool


@dataclass(frozen=True)
class Recommendation:
    row: Row
    trials: tuple[Trial, ...]
    """Of the seeds that have this round."""
    is_met: bool
    """False: nothing meets the goal, and this came nearest."""

    @property
    def num_held(self) -> int:
        return sum(trial.holds for trial in self.trials)

    @property
    def margin(self) -> float | None:
        margins = [trial.margin for trial in self.trials if trial.margin is not None]
        return statistics.fmean(margins) if margins else None

    @property
    def worst_margin(self) -> float | None:
        return min((trial.margin for trial in self.trials if trial.margin is not None), default=None)

    @property
    def best_trial(self) -> Trial:
        """Of the most margin; between equals the one of the first seed."""
        return max(self.trials, key=lambda trial: (trial.margin if trial.margin is not None else 0.0, -trial.seed))


def recommend(
    entries: Sequence[Entry], goal: Goal, seeds: Sequence[int], recipes: Sequence[str]
) -> Recommendation | None:
    """The pruned round that meets the goal best, else the one that came nearest; None where nothing was pruned yet.

    `smallest` takes the most removed, between equals the larger mean margin; `best` the better mean, between equals the
    smaller. The nearest is the one that holds in the most seeds, then of the largest mean margin. Controls and dense
    networks are never recommended.
    """
    rows = [row for row in table(entries, goal.metric, recipes) if row.control is None and row.number != 0]
    levels = _levels(entries, goal, seeds)
    needed = len(seeds) if goal.min_seeds is None else goal.min_seeds
    candidates = []
    for row in rows:
        trials = _trials(entries, row, goal, levels)
        small_enough = goal.min_removed is None or row.removed >= goal.min_removed
        is_met = small_enough and sum(trial.holds for trial in trials) >= needed
        candidates.append((Recommendation(row, trials, is_met), small_enough))
    if not candidates:
        return None
    met = [candidate for candidate, _ in candidates if candidate.is_met]
    if not met:
        return max(candidates, key=lambda c: (c[1], c[0].num_held, _or_least(c[0].margin), c[0].row.removed))[0]
    if goal.want == "smallest":
        return max(met, key=lambda c: (c.row.removed, _or_least(c.margin)))
    return max(met, key=lambda c: (oriented(goal.metric, c.row.mean), c.row.removed))


def gates_pass(entries: Sequence[Entry], recommended: Recommendation, gates: Sequence[Gate]) -> bool:
    """Of the recommended round's means over its seeds; a metric that is not measured passes nothing."""
    row = recommended.row
    of_row = [e for e in entries if (e.recipe, e.control, e.number) == (row.recipe, row.control, row.number)]
    for gate in gates:
        values = [entry.validation[gate.metric] for entry in of_row if gate.metric in entry.validation]
        if not values or not COMPARE[gate.op](statistics.fmean(values), gate.value):
            return False
    return True


@dataclass(frozen=True)
class Findings:
    """All that the stored rounds of a comparison say."""

    goal: Goal
    entries: list[Entry]
    rows: list[Row]
    levels: dict[int, float]
    """By seed, what the goal's metric has to reach; empty where the goal names none."""
    recommended: Recommendation | None
    passed: bool
    """Something meets the goal, and its means pass the gates."""

    @property
    def is_more_better(self) -> bool:
        return self.goal.metric not in LOWER_IS_BETTER

    def is_recommended(self, row: Row) -> bool:
        best = self.recommended.row if self.recommended is not None and self.recommended.is_met else None
        return best is not None and (row.recipe, row.control, row.number) == (best.recipe, best.control, best.number)


def findings(
    measured: Iterable[tuple[str, int, str, Sequence[MeasuredRound]]],
    recipes: Sequence[str],
    seeds: Sequence[int],
    goal: Mapping[str, Any],
    gates: Sequence[Mapping[str, Any]],
) -> Findings:
    """From (recipe, seed, job, its rounds in order); goal and gates as they are stored."""
    aim = Goal.model_validate(goal)
    entries = [entry for recipe, seed, job, rounds in measured for entry in entries_of(recipe, seed, job, rounds)]
    recommended = recommend(entries, aim, seeds, recipes)
    passes = (
        recommended is not None
        and recommended.is_met
        and gates_pass(entries, recommended, [Gate.model_validate(gate) for gate in gates])
    )
    rows = table(entries, aim.metric, recipes)
    return Findings(aim, entries, rows, _levels(entries, aim, seeds), recommended, passes)


def _levels(entries: Sequence[Entry], goal: Goal, seeds: Sequence[int]) -> dict[int, float]:
    """By seed, what the metric has to reach."""
    if goal.value is not None:
        return dict.fromkeys(seeds, goal.value)
    if goal.keep_ratio is None:
        return {}
    dense: dict[int, list[float]] = {}
    for entry in entries:
        if entry.number == 0 and entry.control is None and goal.metric in entry.validation:
            dense.setdefault(entry.seed, []).append(entry.validation[goal.metric])
    if goal.metric in LOWER_IS_BETTER:
        return {seed: min(values) / goal.keep_ratio for seed, values in dense.items()}
    return {seed: max(values) * goal.keep_ratio for seed, values in dense.items()}


def _trials(entries: Sequence[Entry], row: Row, goal: Goal, levels: dict[int, float]) -> tuple[Trial, ...]:
    asks_nothing = goal.value is None and goal.keep_ratio is None
    trials = []
    for entry in entries:
        if (entry.recipe, entry.control, entry.number) != (row.recipe, None, row.number):
            continue
        if (value := entry.validation.get(goal.metric)) is None:
            continue
        level = levels.get(entry.seed)
        margin = None if level is None else oriented(goal.metric, value) - oriented(goal.metric, level)
        holds = asks_nothing or (margin is not None and margin >= 0)
        trials.append(Trial(entry.seed, entry.job, entry.position, value, level, margin, holds))
    return tuple(sorted(trials, key=lambda trial: trial.seed))


def _or_least(margin: float | None) -> float:
    return float("-inf") if margin is None else margin
