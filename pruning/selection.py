"""Which round a job returns, and whether it passed: read from the rounds' validation metrics alone.

Everything here reads the **validation** split of **trained** networks (the test split is evaluated, never used).
Torch-free: the process that supervises the training decides with it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from pruning.recipe import AccuracyFloor
from pruning.training_options import Section

Select = Literal["smallest_passing", "best", "last"]

COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}


class Gate(Section):
    """A condition on the selected round; a job whose gate is missed succeeds with conclusion `gate_failed`."""

    metric: Literal["accuracy", "loss", "f1", "mae", "r2", "perplexity", "accuracy_ratio", "sparsity"] = Field(
        description="one that the recipe's loss measures (GET /v1/capabilities, losses); accuracy_ratio: accuracy over "
        "that of the dense network, round 0; or sparsity, the fraction removed"
    )
    split: Literal["validation"] = "validation"
    op: Literal[">=", ">", "<=", "<"] = ">="
    value: float = Field(allow_inf_nan=False)

    def passes(self, round_: RoundRecord, dense: RoundRecord) -> bool:
        measured = self._measured(round_, dense)
        return measured is not None and COMPARE[self.op](measured, self.value)

    def _measured(self, round_: RoundRecord, dense: RoundRecord) -> float | None:
        if self.metric == "sparsity":
            return round_.sparsity
        if self.metric == "accuracy_ratio":
            accuracy, of = round_.validation.get("accuracy"), dense.validation.get("accuracy")
            return accuracy / of if accuracy is not None and of else None
        return round_.validation.get(self.metric)


@dataclass(frozen=True)
class RoundRecord:
    """What choices read of a round. `position` counts entries; `number` is null for the unnumbered final entry.

    `validation` maps metric names to values; it is empty for an untrained entry, which can pass nothing. `seconds` is
    what the entry took: another run of the same entry takes others, and is equal.
    """

    position: int
    number: int | None
    sparsity: float
    validation: dict[str, float]
    seconds: float = field(default=0.0, compare=False)


def quality(validation: Mapping[str, float]) -> float:
    """What is better is more: the accuracy, or the negative loss where the task has none; of nothing, -inf."""
    return validation["accuracy"] if "accuracy" in validation else -validation.get("loss", math.inf)


def pareto_front(rounds: Sequence[RoundRecord]) -> set[int]:
    """Positions of the trained rounds that no other beats: none is at least as sparse and as good (`quality`), and
    better in one of the two. Rounds that are equal in both stand on the front together."""
    measured = [(r.sparsity, quality(r.validation), r.position) for r in rounds if r.validation]
    return {
        position
        for sparsity, good, position in measured
        if not any(
            other_sparsity >= sparsity and other_good >= good and (other_sparsity, other_good) != (sparsity, good)
            for other_sparsity, other_good, _ in measured
        )
    }


def rounds_without_progress(rounds: Sequence[RoundRecord]) -> int:
    """How many of the last rounds have brought no better validation metric than all before them."""
    best = max(range(len(rounds)), key=lambda index: (quality(rounds[index].validation), -index))
    return len(rounds) - 1 - best


def passes_floor(round_: RoundRecord, dense: RoundRecord, floor: AccuracyFloor | None) -> bool:
    """a' > k * a, where a is the dense network's validation accuracy (Tan & Motani 2020 stop at a' <= k * a).

    The dense network passes its own relative floor; an absolute floor it can miss.
    """
    if floor is None:
        return True
    accuracy = round_.validation.get("accuracy")
    if accuracy is None:
        return False
    if floor.factor is not None:
        return round_.number == 0 or accuracy > floor.factor * dense.validation["accuracy"]
    assert floor.value is not None
    return accuracy > floor.value


def last_passing(rounds: Sequence[RoundRecord], floor: AccuracyFloor | None) -> RoundRecord:
    """The round whose masks a job stands for: the last numbered one above the floor, else the dense network."""
    numbered = [r for r in rounds if r.number is not None]
    if floor is not None and floor.on_floor == "literal":
        return numbered[-1]
    return next((r for r in reversed(numbered) if passes_floor(r, numbered[0], floor)), numbered[0])


def select_round(
    rounds: Sequence[RoundRecord], gates: Sequence[Gate], floor: AccuracyFloor | None, select: Select
) -> tuple[RoundRecord, bool]:
    """(the round to return, whether it passed its gates). `rounds` in order of position, round 0 first.

    Candidates are the trained rounds above the floor (with `on_floor: literal`, the last one run stands as well). Among
    those that pass every gate, `smallest_passing` takes the sparsest, `best` that of the most `quality`, `last` the
    last; between equals, the later one. Where none passes, the same choice among the candidates is returned with False.
    A dense network that misses an absolute floor is returned with False, whatever came after it.
    """
    dense = rounds[0]
    if not passes_floor(dense, dense, floor):
        return dense, False
    trained = [r for r in rounds if r.validation]
    literal = floor is not None and floor.on_floor == "literal"
    candidates = [r for r in trained if passes_floor(r, dense, floor)]
    if literal:
        last_run = last_passing(trained, floor)
        candidates = [r for r in candidates if r.position < last_run.position] + [
            r for r in trained if r.position >= last_run.position
        ]
    passing = [r for r in candidates if all(gate.passes(r, dense) for gate in gates)]
    chosen = _choose(passing or candidates, select)
    return chosen, bool(passing)


def _choose(candidates: Sequence[RoundRecord], select: Select) -> RoundRecord:
    if select == "smallest_passing":
        return max(candidates, key=lambda r: (r.sparsity, r.position))
    if select == "best":
        return max(candidates, key=lambda r: (quality(r.validation), r.position))
    return max(candidates, key=lambda r: r.position)
