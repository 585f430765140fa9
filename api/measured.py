"""Rounds as a flat table: what a spreadsheet, a script or a plot takes from a job.

A round's report comes from a process that is not trusted, so a number is taken only where there is one.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from api.documents import EntryName
from api.job_documents import entry_name
from api.reported import number_in
from api.routes.rounds import front_of
from store import jobs
from store.tables import Job, Round

METRICS = ("accuracy", "loss", "f1", "mae", "r2", "perplexity")


class MeasuredRound(BaseModel):
    """A field is a column of the CSV, in this order. None is ever renamed, moved or dropped; new ones come last."""

    round: EntryName
    sparsity: float = Field(description="fraction removed of the prunable weights, or units")
    pareto: bool = Field(description="no trained round is as sparse and better on validation, or the reverse")
    selected: bool = Field(description="the round that the job returns")
    validation_accuracy: float | None = Field(description="null, and empty in CSV, where it is not measured")
    validation_loss: float | None
    validation_f1: float | None
    validation_mae: float | None
    validation_r2: float | None
    validation_perplexity: float | None
    test_accuracy: float | None = Field(description="evaluated, and never chosen by")
    test_loss: float | None
    test_f1: float | None
    test_mae: float | None
    test_r2: float | None
    test_perplexity: float | None
    num_parameters: int | None = Field(description="prunable weights")
    num_nonzero: int | None
    num_units: int | None = Field(description="where units are pruned")
    num_units_kept: int | None
    compression_ratio: float | None
    size_bytes_dense: int | None
    size_bytes_sparse: int | None
    macs_dense: int | None
    macs_effective: int | None


class ParetoDocument(BaseModel):
    object: Literal["pareto"] = "pareto"
    job: str
    metric: Literal["accuracy", "loss"] = Field(description="of validation, beside the sparsity, the front is made of")
    data: list[MeasuredRound] = Field(description="in order of the rounds")


def measured_rounds(session: Session, job: Job) -> list[MeasuredRound]:
    """Of all trained rounds so far, in their order."""
    rounds = jobs.stored_rounds(session, job.id)
    front = front_of(rounds)
    return [
        _measured(row, pareto=row.position in front, selected=row.position == job.selected_position)
        for row in rounds
        if row.report["metrics"].get("validation")
    ]


def metric_of(rounds: Sequence[MeasuredRound]) -> Literal["accuracy", "loss"]:
    """What is better or worse in this job: `pruning.selection.quality` says the same."""
    return "loss" if rounds and all(row.validation_accuracy is None for row in rounds) else "accuracy"


def as_csv(rounds: Sequence[MeasuredRound]) -> str:
    """RFC 4180, a header first; numbers as JSON has them, true and false, nothing for null."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(MeasuredRound.model_fields)
    for row in rounds:
        values = row.model_dump().values()
        writer.writerow([str(value).lower() if isinstance(value, bool) else value for value in values])
    return file.getvalue()


def _measured(row: Round, *, pareto: bool, selected: bool) -> MeasuredRound:
    report, metrics = row.report, row.report["metrics"]
    return MeasuredRound(
        round=entry_name(row.number),
        sparsity=row.sparsity,
        pareto=pareto,
        selected=selected,
        **{
            f"{split}_{metric}": number_in(metrics.get(split), metric)
            for split in ("validation", "test")
            for metric in METRICS
        },
        **{name: _count(report, name) for name in ("num_parameters", "num_nonzero", "num_units", "num_units_kept")},
        compression_ratio=number_in(report, "compression_ratio"),
        **{
            f"{group}_{name}": _count(report.get(group), name)
            for group, names in (("size_bytes", ("dense", "sparse")), ("macs", ("dense", "effective")))
            for name in names
        },
    )


def _count(values: Any, name: str) -> int | None:
    value = values.get(name) if isinstance(values, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
