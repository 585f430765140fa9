"""A comparison as it is shown, and as it would be made."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.comparing import Comparing
from api.comparison_results import find
from api.comparison_schemas import ComparisonRequest
from api.documents import EstimateDocument, Json
from api.estimates import estimate
from api.job_documents import fraction_of
from api.plans import columns
from store import comparisons, wholes
from store.comparisons import Whole
from store.database import now
from store.settings import Settings
from store.tables import Comparison, JobStatus


class RecipeDocument(BaseModel):
    name: str
    recipe: Json = Field(description="in full, as its jobs have it but for the seed")


class PartDocument(BaseModel):
    recipe: str = Field(description="its name")
    seed: int
    job: str | None = Field(description="the newest of this recipe and seed; null: it was deleted")
    status: str | None
    conclusion: str | None
    fraction: float


class WholeProgress(BaseModel):
    jobs: int
    done: int = Field(description="jobs that have ended")
    fraction: float = Field(description="mean over all jobs, 0 to 1; an ended job counts whole")
    eta_seconds: float | None = Field(description="from the pace since the first job began; null while there is none")


class ComparisonDocument(BaseModel):
    id: str
    object: Literal["comparison"] = "comparison"
    status: Literal["queued", "running", "pausing", "paused", "canceling", "succeeded", "failed", "canceled"] = Field(
        description="of the whole, from its jobs'"
    )
    done: bool = Field(description="all of its jobs have ended")
    conclusion: Literal["passed", "gate_failed", "error", "canceled", "timed_out"] | None = Field(
        description="passed: the recommended round meets the goal and all gates"
    )
    model: str
    dataset: str
    recipes: list[RecipeDocument]
    seeds: list[int]
    budget: Json | None
    controls: list[str]
    goal: Json
    gates: list[Json]
    metadata: dict[str, str]
    progress: WholeProgress
    parts: list[PartDocument]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class PlannedRecipe(RecipeDocument):
    num_rounds: int = Field(description="if no floor ends a job before")
    sparsity: float = Field(description="of the last planned round")
    estimate: EstimateDocument = Field(description="of one of its jobs")


class ComparisonPlanDocument(BaseModel):
    """What `validate_only` answers: nothing is stored."""

    object: Literal["comparison_plan"] = "comparison_plan"
    num_jobs: int
    model: str
    dataset: str
    recipes: list[PlannedRecipe]
    seeds: list[int]
    budget: Json | None
    controls: list[str]
    goal: Json
    gates: list[Json]
    metadata: dict[str, str]
    seconds: float | None = Field(description="of all jobs one after the other; null where one cannot be estimated")
    artifact_bytes: int = Field(description="of all jobs")


def plan_document(
    session: Session, given: ComparisonRequest, compared: Comparing, settings: Settings
) -> ComparisonPlanDocument:
    recipes = []
    for planned in compared.recipes:
        job = columns(planned.requests(given)[0], planned.admitted, settings)
        last = planned.admitted.planned[-1]
        recipes.append(
            PlannedRecipe(
                name=planned.name,
                recipe=without_seed(job["recipe"]),
                num_rounds=last.number,
                sparsity=last.sparsity,
                estimate=estimate(session, planned.recipe, planned.admitted, job["pool"], job["artifacts"]),
            )
        )
    each = [recipe.estimate.seconds for recipe in recipes]
    known = [seconds for seconds in each if seconds is not None]
    num_seeds = len(given.seeds)
    return ComparisonPlanDocument(
        num_jobs=len(recipes) * num_seeds,
        model=given.model,
        dataset=given.dataset,
        recipes=recipes,
        seeds=given.seeds,
        budget=budget_of(given),
        controls=list(given.controls),
        goal=compared.goal.model_dump(),
        gates=[gate.model_dump() for gate in given.gates],
        metadata=given.metadata,
        seconds=round(sum(known) * num_seeds, 1) if len(known) == len(each) else None,
        artifact_bytes=sum(recipe.estimate.artifact_bytes for recipe in recipes) * num_seeds,
    )


def budget_of(given: ComparisonRequest) -> Json | None:
    return None if given.budget is None else given.budget.model_dump(exclude_none=True)


def without_seed(recipe: Json) -> Json:
    return {name: value for name, value in recipe.items() if name != "seed"}


def comparison_documents(session: Session, rows: Sequence[Comparison]) -> list[ComparisonDocument]:
    """In their order."""
    at = session.scalars(select(now())).one()
    return [_document(session, whole, at) for whole in comparisons.read(session, rows)]


def conclusion_of(session: Session, whole: Whole) -> str | None:
    """As the sweeper writes it; until it has come by, from the same rounds."""
    if whole.comparison.conclusion is not None or not whole.status.is_terminal:
        return whole.comparison.conclusion
    passed = whole.status is JobStatus.SUCCEEDED and find(session, whole).findings.passed
    return wholes.conclusion_of(whole.status, [job.conclusion for job in whole.parts.values()], passed)


def _document(session: Session, whole: Whole, at: float) -> ComparisonDocument:
    comparison, jobs = whole.comparison, whole.parts.values()
    status = whole.status
    started = [job.started_at for job in jobs if job.started_at is not None]
    finished = [job.finished_at for job in jobs if job.finished_at is not None]
    parts = [_part(whole, index, seed) for index in range(len(comparison.recipes)) for seed in comparison.seeds]
    fraction = sum(part.fraction for part in parts) / len(parts)
    eta_seconds = None
    if status == JobStatus.RUNNING and started and fraction > 0:
        eta_seconds = round((at - min(started)) / fraction * (1 - fraction), 1)
    return ComparisonDocument(
        id=comparison.id,
        status=status.value,
        done=status.is_terminal,
        conclusion=conclusion_of(session, whole),
        model=comparison.model_id,
        dataset=comparison.dataset_id,
        recipes=[RecipeDocument.model_validate(recipe) for recipe in comparison.recipes],
        seeds=comparison.seeds,
        budget=comparison.asked["budget"],
        controls=comparison.asked["controls"],
        goal=comparison.goal,
        gates=comparison.gates,
        metadata=comparison.asked["metadata"],
        progress=WholeProgress(
            jobs=len(parts),
            done=sum(part.status is None or JobStatus(part.status).is_terminal for part in parts),
            fraction=fraction,
            eta_seconds=eta_seconds,
        ),
        parts=parts,
        created_at=comparison.created_at,
        started_at=min(started, default=None),
        finished_at=max(finished, default=None) if status.is_terminal else None,
    )


def _part(whole: Whole, index: int, seed: int) -> PartDocument:
    name, job = whole.comparison.recipes[index]["name"], whole.parts.get((index, seed))
    if job is None:
        return PartDocument(recipe=name, seed=seed, job=None, status=None, conclusion=None, fraction=1.0)
    fraction = 1.0 if JobStatus(job.status).is_terminal else fraction_of(job)
    return PartDocument(
        recipe=name, seed=seed, job=job.id, status=job.status, conclusion=job.conclusion, fraction=fraction
    )
