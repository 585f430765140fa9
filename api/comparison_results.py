"""What a comparison found: its rows, its front and its recommendation, read from its jobs' rounds."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from api.documents import ArtifactDocument, EntryName
from api.job_documents import entry_name
from api.routes.artifacts import artifact_document
from pruning.comparing import Row
from pruning.recommending import Findings, findings
from store import comparisons, listing
from store.comparisons import Whole


class ComparedRow(BaseModel):
    """A recipe's round over its seeds. A field is a column of the CSV, in this order. None is ever renamed, moved or
    dropped; new ones come last."""

    recipe: str
    control: str | None = Field(description="trained beside the recipe's round; null: the recipe itself")
    round: EntryName
    num_seeds: int = Field(description="that have this round")
    sparsity: float = Field(description="mean fraction removed of what the recipe prunes, weights or units")
    removed: float = Field(description="mean fraction of all parameters that masks take away: the same for all recipes")
    pareto: bool = Field(description="no row is as small and better by its mean, or the reverse; controls: false")
    recommended: bool
    mean: float = Field(description="of the metric, on validation")
    std: float | None = Field(description="sample standard deviation over seeds; null for one")
    low: float
    high: float
    test_mean: float | None = Field(description="measured, and never chosen by")
    test_std: float | None
    stop_step: float | None = Field(description="mean step of the least validation loss: where to stop early")
    steps: float | None = Field(description="mean steps that the entry trained")
    seconds: float | None = Field(description="mean, of this entry alone")
    seconds_so_far: float | None = Field(description="mean, of a job's entries up to this one, controls aside")


class TableDocument(BaseModel):
    object: Literal["comparison_table"] = "comparison_table"
    comparison: str
    metric: str
    data: list[ComparedRow]


class TrialDocument(BaseModel):
    seed: int
    job: str
    round: EntryName
    value: float
    level: float | None = Field(description="what it had to reach")
    margin: float | None = Field(description="how far beyond it; below 0: missed")
    holds: bool


class RecommendationDocument(BaseModel):
    object: Literal["recommendation"] = "recommendation"
    comparison: str
    final: bool = Field(description="all jobs have ended; else it may still change")
    met: bool = Field(description="false: nothing meets the goal, and this came nearest, or there is nothing yet")
    passed: bool = Field(description="it meets the goal, and its means pass the gates")
    goal: dict[str, Any]
    recipe: str | None
    round: EntryName | None
    row: ComparedRow | None
    seeds: int = Field(description="that were asked for")
    held: int = Field(description="seeds in which it holds")
    margin: float | None = Field(description="mean over seeds of how far the metric is beyond its level")
    worst_margin: float | None = Field(description="of the seed that came off worst")
    trials: list[TrialDocument]
    job: str | None = Field(description="of the seed with the most margin")
    artifacts: list[ArtifactDocument] = Field(description="of the recommended round, from that job")
    summary: str = Field(description="in one sentence")


@dataclass(frozen=True)
class Found:
    whole: Whole
    findings: Findings


def find(session: Session, whole: Whole) -> Found:
    comparison = whole.comparison
    measured = comparisons.measured(session, whole)
    return Found(whole, findings(measured, whole.names, comparison.seeds, comparison.goal, comparison.gates))


def compared_rows(found: Found) -> list[ComparedRow]:
    return [_compared(found, row) for row in found.findings.rows]


def _compared(found: Found, row: Row) -> ComparedRow:
    values = dataclasses.asdict(row)
    number = values.pop("number")
    return ComparedRow(round=entry_name(number), recommended=found.findings.is_recommended(row), **values)


def table_document(found: Found, rows: Sequence[ComparedRow]) -> TableDocument:
    return TableDocument(comparison=found.whole.comparison.id, metric=found.findings.goal.metric, data=list(rows))


def as_csv(rows: Sequence[ComparedRow]) -> str:
    """RFC 4180, a header first; numbers as JSON has them, true and false, nothing for null."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(ComparedRow.model_fields)
    for row in rows:
        values = row.model_dump().values()
        writer.writerow([str(value).lower() if isinstance(value, bool) else value for value in values])
    return file.getvalue()


def recommendation_document(session: Session, found: Found) -> RecommendationDocument:
    comparison, best = found.whole.comparison, found.findings.recommended
    common = {
        "comparison": comparison.id,
        "final": found.whole.status.is_terminal,
        "passed": found.findings.passed,
        "goal": comparison.goal,
        "seeds": len(comparison.seeds),
        "summary": said(found),
    }
    if best is None:
        nothing = dict.fromkeys(("recipe", "round", "row", "margin", "worst_margin", "job"))
        return RecommendationDocument(**common, **nothing, met=False, held=0, trials=[], artifacts=[])
    job = next(job for job in found.whole.parts.values() if job.id == best.best_trial.job)
    offered = listing.offered_artifacts(session, job)
    return RecommendationDocument(
        **common,
        met=best.is_met,
        recipe=best.row.recipe,
        round=entry_name(best.row.number),
        row=_compared(found, best.row),
        held=best.num_held,
        margin=best.margin,
        worst_margin=best.worst_margin,
        trials=[
            TrialDocument(
                seed=trial.seed,
                job=trial.job,
                round=entry_name(best.row.number),
                value=trial.value,
                level=trial.level,
                margin=trial.margin,
                holds=trial.holds,
            )
            for trial in best.trials
        ],
        job=job.id,
        artifacts=[artifact_document(one) for one in offered if one.artifact.position == best.best_trial.position],
    )


def said(found: Found) -> str:
    """The recommendation in a sentence, honest where there is none."""
    best, num_seeds = found.findings.recommended, len(found.whole.comparison.seeds)
    if best is None:
        return "No pruned round is stored yet."
    name = "the final entry" if best.row.number is None else f"round {best.row.number}"
    what = f"{name} of {best.row.recipe}, {best.row.removed:.1%} of all parameters removed"
    metric = f"{found.findings.goal.metric} {best.row.mean:.4f}" + (
        f" ± {best.row.std:.4f}" if best.row.std is not None else ""
    )
    held = f"held in {best.num_held} of {num_seeds} seed{'s' * (num_seeds != 1)}"
    margin = "" if best.worst_margin is None else f", worst margin {best.worst_margin:+.4f}"
    if best.is_met:
        gates = "" if found.findings.passed or not found.whole.comparison.gates else "; it misses a gate"
        return f"Take {what}: {metric}, {held}{margin}{gates}."
    return f"Nothing meets the goal. Nearest came {what}: {metric}, {held}{margin}."
