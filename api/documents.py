"""What the service answers: one type for each kind of object, in the names that clients are promised.

What a worker's child reported is passed on as it was stored (`Reported`): its shape is checked where it is taken in,
and a strange report must not make a whole list unreadable.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SkipValidation

T = TypeVar("T")
Reported = Annotated[T, SkipValidation]
Json = dict[str, Any]
EntryName = int | Literal["final"]
"""A round's number, or `final` for the unnumbered entry behind the last round."""


class Failure(BaseModel):
    code: str
    message: str
    retryable: bool


class ModelDocument(BaseModel):
    id: str
    object: Literal["model"] = "model"
    name: str
    status: Literal["validating", "ready", "invalid"]
    format: str
    architecture: str | None
    input_shape: Reported[list[int] | None] = Field(description="of one example; null until ready")
    size_bytes: int | None = Field(description="null until validation has made a seeded architecture's weights")
    sha256: str | None
    num_parameters: Reported[int | None] = Field(description="prunable weights; null until ready")
    num_parameters_total: Reported[int | None] = Field(description="with biases and all")
    num_prunable: Reported[int | None] = Field(description="prunable layers")
    num_outputs: Reported[int | None] = Field(description="the last number of output_shape")
    output_shape: Reported[list[int] | None] = Field(
        description="for one example: [outputs], or [length, vocabulary] for tokens"
    )
    input_dtype: Reported[str | None] = Field(description="float32, or int64 for tokens")
    output_layer: Reported[str | None] = Field(description="the last layer; a recipe may prune it less")
    layers: Reported[list[Json] | None] = Field(
        description="linear and convolution layers: name, type, shape, prunable (weight, unit), reason (why not), ..."
    )
    others: Reported[list[Json] | None] = Field(
        description="parameters that are never pruned, biases of layers aside: name, shape, num_weights, reason"
    )
    smoke_test: Reported[Json | None] = Field(description="what was tried: batch_sizes, deterministic, train_loss")
    source: Reported[Json | None] = Field(
        description="of another package's architecture: built_with, recorded (training, or evaluation), and the "
        "uploaded_sha256 of its weights; sha256 is then that of the program that was made of them"
    )
    error: Failure | None = Field(description="why it is invalid, and the line that mends it")
    created_at: datetime


class DatasetDocument(BaseModel):
    id: str
    object: Literal["dataset"] = "dataset"
    name: str
    status: Literal["validating", "ready", "invalid"]
    format: str
    size_bytes: int | None
    sha256: str
    splits: Reported[Json | None] = Field(
        description="by name: num_examples, input_shape, input_mean, input_std (by channel for images), task, "
        "target_shape, num_classes, class_counts, ..."
    )
    error: Failure | None
    created_at: datetime


class UploadDocument(BaseModel):
    id: str
    object: Literal["upload"] = "upload"
    complete: bool
    offset_bytes: int = Field(description="how much has arrived; content goes on here")
    length_bytes: int | None = Field(description="of the whole; null until the client has said it")
    sha256: str | None = Field(description="of the whole; null until it is complete")
    created_at: datetime
    expires_at: datetime = Field(description="when it goes, if nothing more comes; what was made of it stays")


class Progress(BaseModel):
    round: EntryName | None = Field(description="that is trained now, or was stored last; null before the first")
    rounds: int = Field(description="the number of the last round, if no floor ends the job before")
    fraction: float = Field(description="of the whole job, 0 to 1")
    eta_seconds: float | None = Field(description="from this attempt's pace; null while there is none")


class AttemptDocument(BaseModel):
    number: int
    started_at: datetime
    ended_at: datetime | None
    reason: str | None = Field(description="why it ended")
    worker: str


class WaitingFor(BaseModel):
    job: str
    round: EntryName


class AdoptedFrom(BaseModel):
    job: str
    round: EntryName


class JobDocument(BaseModel):
    id: str
    object: Literal["job"] = "job"
    status: Literal["queued", "running", "pausing", "paused", "canceling", "succeeded", "failed", "canceled"]
    done: bool = Field(description="the status is final")
    conclusion: Literal["passed", "gate_failed", "error", "canceled", "timed_out"] | None
    retried_from: str | None = Field(description="the job that this one does again")
    comparison: str | None = Field(description="that it is a part of")
    model: str
    dataset: str
    recipe: Json = Field(description="in full: what was left out is filled in")
    progress: Progress
    selected_round: EntryName | None
    gates: list[Json]
    select: str
    pool: str
    priority: int
    queue_position: int | None = Field(
        description="1: next of its pool by priority and age; null where it is not queued. Projects of one "
        "priority take turns, so that a job may go earlier or later"
    )
    waiting_for: WaitingFor | None = Field(
        description="the round that it needs next, which a worker computes for another job of the project just now: it "
        "is taken up once that is stored, or that worker is gone. null: it waits for a worker, or for nothing"
    )
    attempts: list[AttemptDocument]
    failures: int
    max_failures: int
    queue_timeout_seconds: float | None
    deadline_seconds: float | None
    keep_rounds: str
    expires_in_seconds: float | None = Field(description="how long its artifacts stay after its end; null: for ever")
    artifacts: list[str] = Field(description="the kinds that are offered")
    cache: str = Field(description="on: rounds that the project has are adopted; off: all are computed, and compared")
    metadata: dict[str, str]
    error: Failure | None
    determinism: Json | None = Field(
        description="class of machine of the last attempt; the same class computes the same bits, "
        "and a resume in another one leaves an event, job.determinism_changed"
    )
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None = Field(
        description="when its artifacts go: they are not found then, all else stays; null until it has ended, "
        "and where they stay for ever"
    )


class PlannedRoundDocument(BaseModel):
    number: int
    sparsity: float = Field(description="fraction removed")
    num_remaining: int = Field(description="weights or units, as the granularity is")


class EstimateDocument(BaseModel):
    """Of the job's own work, once a worker has it; the queue is not in it."""

    seconds: float | None = Field(
        description="as such jobs went here: where a floor or patience may end it, by how far those came. null where "
        "nothing was measured on this pool"
    )
    seconds_of_all_rounds: float | None = Field(description="if nothing ends it before its last planned round")
    basis: Literal["measured", "scaled", "unknown"] = Field(
        description="measured: from rounds of this architecture and batch size on this pool; scaled: by multiply-adds "
        "from what was measured of others there, and may be wrong by a factor of several; unknown: nothing was measured"
    )
    memory_bytes: int = Field(description="of the training process, from sizes; activations are not counted")
    artifact_bytes: int = Field(
        description="that its rounds store if all are kept, before what they share is taken out"
    )


class PlanDocument(BaseModel):
    """What `validate_only` answers: the job as it would be, nothing stored."""

    object: Literal["plan"] = "plan"
    model: str
    dataset: str
    recipe: Json = Field(description="in full: what was left out is filled in")
    gates: list[Json]
    select: str
    artifacts: list[str]
    pool: str
    priority: int
    max_failures: int
    queue_timeout_seconds: float | None
    deadline_seconds: float | None
    keep_rounds: str
    expires_in_seconds: float | None
    cache: str
    metadata: dict[str, str]
    rounds: list[PlannedRoundDocument] = Field(description="if no accuracy floor ends the job before")
    estimate: EstimateDocument


class EventDocument(BaseModel):
    object: Literal["event"] = "event"
    job: str
    sequence: int = Field(description="from 1, without gaps within the job")
    type: str
    at: datetime
    data: Json


class ArtifactDocument(BaseModel):
    id: str
    object: Literal["artifact"] = "artifact"
    job: str
    round: EntryName
    kind: str
    format: str
    filename: str
    size_bytes: int
    sha256: str
    verified: Reported[Json | None] = Field(
        description="of ONNX: max_difference of its outputs from the network's, absolute, beside largest_output, with "
        "runtime; refused past tolerance, relative to the largest. null: other kinds"
    )
    created_at: datetime


class RoundDocument(BaseModel):
    """`num_parameters` and `num_nonzero` count prunable weights; `*_total` count all, biases included."""

    model_config = ConfigDict(extra="allow")

    object: Literal["round"] = "round"
    number: int | None = Field(description="null: the final entry")
    final: bool
    selected: bool
    sparsity: Reported[Json | None] = Field(None, description="target, actual: fractions removed")
    num_parameters: Reported[int | None] = None
    num_nonzero: Reported[int | None] = None
    num_parameters_total: Reported[int | None] = None
    num_nonzero_total: Reported[int | None] = None
    compression_ratio: Reported[float | None] = Field(
        None, description="all parameters over those that no mask takes away"
    )
    num_units: Reported[int | None] = Field(None, description="prunable units, where units are pruned; coupled: once")
    num_units_kept: Reported[int | None] = None
    kept_units: Reported[Json | None] = Field(None, description="by layer: the indices of the units that are left")
    layers: Reported[list[Json] | None] = Field(
        None, description="name, num_weights, num_nonzero, density (the fraction that the mask keeps)"
    )
    metrics: Reported[Json] = Field(
        description="by split: accuracy and loss, or what the recipe's loss measures; empty where untrained"
    )
    early_stopping: Reported[Json | None] = Field(
        None, description="step, metrics: of the least validation loss, read afterwards"
    )
    controls: Reported[Json | None] = Field(
        None,
        description="by name: metrics, early_stopping, steps, connected of what was trained beside the round; "
        "connected is false where a random mask cut the network in two: its outputs are constants",
    )
    delta: Json = Field(description="by split: metrics less those of the dense network (round 0)")
    size_bytes: Reported[Json | None] = Field(None, description="dense, sparse: of the files")
    macs: Reported[Json | None] = Field(None, description="dense, effective; 1 MAC = 1 multiply-add, batch 1")
    latency_ms: Reported[Json | None] = Field(None, description="p50, p95, conditions; masks make nothing faster")
    seconds: Reported[Json | None] = Field(None, description="prune, train, evaluate; each control's own")
    steps: Reported[int | None] = None
    seed: Reported[int | None] = None
    invariants: Reported[list[str] | None] = Field(None, description="that were checked in this very run")
    pareto: bool = Field(description="no trained round so far is as sparse and better on validation, or the reverse")
    digests: dict[str, str] = Field(
        description="sha256 of the stored model, masks, ticket and sparse file: equal for every run of this job on one "
        "class of machine (the job's determinism), however often it was stopped"
    )
    artifacts: list[ArtifactDocument] = Field(description="empty where they were dropped: keep_rounds, expires_at")
    adopted_from: AdoptedFrom | None = Field(
        None, description="the job that computed it, which may be gone since; null: this one did"
    )
    created_at: datetime


class ReportDocument(BaseModel):
    object: Literal["report"] = "report"
    job: JobDocument
    conventions: dict[str, str] = Field(description="what the numbers mean")
    dense: RoundDocument | None = Field(description="round 0, the control of all others; null: not trained yet")
    selected: RoundDocument | None = Field(description="the one that the job returns; null: none yet")
    rounds: list[RoundDocument]
    steps: int = Field(description="of all entries together, controls aside")
    seconds: Json = Field(description="by phase, of all entries together")


class StrategyDocument(BaseModel):
    object: Literal["strategy"] = "strategy"
    name: str
    title: str
    source: str
    defaults: Json = Field(description="what it fills into a recipe")
