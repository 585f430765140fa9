"""What the loop yields, and what it takes to go on from what was stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pruning.losses import Metrics
from pruning.masks import Masks
from pruning.rewinding import State
from pruning.selection import RoundRecord


@dataclass(frozen=True)
class UnitCounts:
    """Prunable units and those kept; `kept_units` lists the kept indices of each layer. Coupled layers count once."""

    num_units: int
    num_units_kept: int
    kept_units: dict[str, list[int]]


@dataclass(frozen=True, eq=False)
class Round:
    """One entry of a job: prune, rewind, train, evaluate. Tensors are clones, under the model's own keys.

    Attributes:
        position: 0, 1, 2, ... over all entries.
        number: the round's number; None for the final entry. Round 0 is the dense network.
        sparsity_target: what the schedule aims at, a fraction removed.
        sparsity_actual: the fraction of prunable weights, or units, that is removed.
        state: parameters and buffers after training (untrained, those that it starts from), pruned weights zero.
        masks: bool, of every parameter that is pruned; tied weights under every key.
        ticket: the first weights and buffers under the mask.
        units: None where single weights are pruned.
        metrics: {"train" | "validation" | "test": {"loss", ...}}, as the recipe's loss measures; empty where untrained.
        early_stopping: {"step", "metrics"} of the least validation loss seen; None where untrained.
        seconds: {"prune", "train", "evaluate"}; `train` is without the evaluations on the way. Each control adds its
            own, under its name, and the scan under `sensitivity`.
        seed: of the job; all that is drawn at random comes from it.
        controls: by name, {"metrics", "early_stopping", "steps", "connected"} of what was trained beside the round;
            `connected` is False where its masks let nothing through the network, and its outputs are constants.
        sensitivity: of round 0, where the recipe asks for it: `pruning.sensitivity.scan`.
        optimizer: the optimiser's state after training, where the recipe keeps it; else None.
    """

    position: int
    number: int | None
    sparsity_target: float
    sparsity_actual: float
    state: State
    masks: Masks
    ticket: State
    units: UnitCounts | None
    metrics: dict[str, Metrics]
    early_stopping: dict[str, Any] | None
    steps: int
    seconds: dict[str, float]
    seed: int
    controls: dict[str, dict[str, Any]] = field(default_factory=dict)
    sensitivity: list[dict[str, Any]] | None = None
    optimizer: State | None = None

    @property
    def record(self) -> RoundRecord:
        validation = self.metrics.get("validation", {})
        return RoundRecord(self.position, self.number, self.sparsity_actual, validation, sum(self.seconds.values()))


@dataclass(frozen=True, eq=False)
class Stored:
    """What is needed of a stored round to go on from it, as it was.

    Attributes:
        ticket: needed of round 0 alone, where the recipe rewinds: unmasked, it is the weights to go back to.
        optimizer: needed where the recipe keeps the optimiser's state.
    """

    state: State
    masks: Masks
    ticket: State | None = None
    optimizer: State | None = None


@dataclass(frozen=True, eq=False)
class Resume:
    """All rounds stored so far, in order, and how to load one by its position: the last, the last that passed, and
    round 0 where the recipe rewinds."""

    rounds: list[RoundRecord]
    load: Callable[[int], Stored]
