"""What a job will take, before it is made: its seconds from what rounds have measured, its bytes from sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from sqlalchemy.orm import Session

from api.admission import Admitted, num_training_examples
from api.documents import EstimateDocument
from pruning.recipe import Recipe
from store import step_times
from store.tables import StepTime

PROCESS_BYTES = 350 << 20
"""Of a worker's child before it has read anything: torch itself."""
FLOAT_BYTES = 4
COPIES = 5
"""Of all parameters: the network, its gradients, its first weights, the round's state and its ticket."""
SLOTS = {"sgd": 1, "adam": 2, "adamw": 2}
"""And what the optimiser keeps for each parameter."""


class Pace(NamedTuple):
    per_step: float
    per_entry: float
    around: float
    fraction_made: float | None
    basis: Literal["measured", "scaled"]


def estimate(
    session: Session, recipe: Recipe, admitted: Admitted, pool: str, artifacts: Sequence[str]
) -> EstimateDocument:
    report: dict[str, Any] = admitted.model.report or {}
    pace = _pace(session, pool, report, recipe.training.batch_size)
    of_all = None if pace is None else _seconds(recipe, admitted, pace)
    expected = of_all
    if pace is not None and of_all is not None and step_times.may_end_early(recipe.to_json()):
        expected = (of_all - pace.around) * (pace.fraction_made or 1.0) + pace.around
    return EstimateDocument(
        seconds=None if expected is None else round(expected, 1),
        seconds_of_all_rounds=None if of_all is None else round(of_all, 1),
        basis="unknown" if pace is None else pace.basis,
        memory_bytes=_memory_bytes(recipe, admitted),
        artifact_bytes=_artifact_bytes(recipe, admitted, artifacts),
    )


def _pace(session: Session, pool: str, report: dict[str, Any], batch_size: int) -> Pace | None:
    architecture = step_times.architecture_of(report)
    measured = step_times.find(session, pool, architecture, batch_size)
    if measured is not None:
        around = measured.seconds_to_start + measured.seconds_to_end
        each = (measured.seconds_per_step, measured.seconds_per_entry)
        return Pace(*each, around, measured.fraction_made, "measured")
    macs = _count(report.get("macs")) or report["num_parameters"]
    others = [row for row in step_times.of_pool(session, pool) if row.macs]
    if not others:
        return None
    work = float(macs * batch_size)
    nearest = min(others, key=lambda row: (row.architecture != architecture, abs(math.log(work / _work(row)))))
    # A step of next to no work still takes its launches and its optimiser.
    least = min(row.seconds_per_step for row in others)
    per_step = max(nearest.seconds_per_step * work / _work(nearest), least)
    around = nearest.seconds_to_start + nearest.seconds_to_end
    return Pace(per_step, nearest.seconds_per_entry, around, None, "scaled")


def _count(claimed: object) -> int:
    """A child wrote it into a report."""
    return min(max(claimed, 0), step_times.MAX_MACS) if isinstance(claimed, int) else 0


def _work(row: StepTime) -> float:
    return float((row.macs or 1) * row.batch_size)


def _seconds(recipe: Recipe, admitted: Admitted, pace: Pace) -> float:
    """If neither a floor nor patience ends the job before."""
    training = recipe.training
    per_epoch = math.ceil(num_training_examples(admitted.dataset) / training.batch_size)
    steps = training.steps if training.steps is not None else (training.epochs or 0) * per_epoch
    skipped = (recipe.between_rounds.step or 0) if recipe.between_rounds.learning_rate == "rewind" else 0
    num_rounds = admitted.planned[-1].number
    num_steps = steps + num_rounds * (steps - skipped + steps * len(recipe.controls)) + steps * recipe.finally_.train
    num_entries = step_times.num_entries(recipe.to_json(), num_rounds)
    return num_steps * pace.per_step + num_entries * pace.per_entry + pace.around


def _memory_bytes(recipe: Recipe, admitted: Admitted) -> int:
    model, dataset = admitted.model.report or {}, admitted.dataset.report or {}
    num_parameters: int = model["num_parameters_total"]
    copies = COPIES + SLOTS[recipe.training.optimizer.name]
    masks = model["num_parameters"]
    num_bytes: int = PROCESS_BYTES + _count(dataset.get("num_bytes")) + num_parameters * FLOAT_BYTES * copies + masks
    return num_bytes


def _artifact_bytes(recipe: Recipe, admitted: Admitted, artifacts: Sequence[str]) -> int:
    """Model, masks and ticket of every entry, for a resume needs them; the rest where they are asked for."""
    report = admitted.model.report or {}
    prunable: int = report["num_parameters"]
    dense_bytes: int = report["num_parameters_total"] * FLOAT_BYTES
    masks_bytes = prunable // 8
    removed = [planned.sparsity for planned in admitted.planned]
    removed += removed[-1:] * (step_times.num_entries(recipe.to_json(), 0) - 1)
    total = len(removed) * (2 * dense_bytes + masks_bytes)
    left = [dense_bytes - round(prunable * FLOAT_BYTES * sparsity) for sparsity in removed]
    if "sparse" in artifacts:
        total += sum(left) + masks_bytes * len(left)
    total += dense_bytes * ("program" in artifacts)
    return total + left[-1] * sum(kind in artifacts for kind in ("reduced_program", "reduced_model"))
