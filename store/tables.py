"""Every table. Times are seconds since 1970 by the database's clock; digests are sha256 in hex."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ForeignKey,
    Index,
    PrimaryKeyConstraint,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from store.access_tables import ApiKey as ApiKey
from store.access_tables import AuditEntry as AuditEntry
from store.access_tables import ExchangedToken as ExchangedToken
from store.access_tables import Project as Project
from store.access_tables import TrustRule as TrustRule
from store.schema import Base as Base


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    CANCELING = "canceling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_terminal(self) -> bool:
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED)


class IntakeStatus(StrEnum):
    """Of a model or a dataset."""

    VALIDATING = "validating"
    READY = "ready"
    INVALID = "invalid"


class Leased:
    """What a worker holds while it works on a row. `lease_until` is null exactly while nobody holds it."""

    attempt: Mapped[int] = mapped_column(default=0)
    """Only ever rises: the fencing token. Every write of a worker is guarded by it."""
    failures: Mapped[int] = mapped_column(default=0)
    """Lost leases and dead children in a row; back to 0 when something was stored."""
    worker: Mapped[str | None] = mapped_column(String(200), default=None)
    lease_until: Mapped[float | None] = mapped_column(default=None)


class Blob(Base):
    """One row per content."""

    __tablename__ = "blobs"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    size_bytes: Mapped[int]
    name: Mapped[str] = mapped_column(String(81), unique=True)
    """Of the copy that holds it: its file or object, in a folder called as its first two letters."""
    touched_at: Mapped[float]
    """When somebody last came to refer to it."""
    suspect: Mapped[bool] = mapped_column(default=False)
    """The copy was found damaged or missing: the next one takes its place."""


class DiscardedCopy(Base):
    """A copy that no row names any more, and whose file or object is still to be removed."""

    __tablename__ = "discarded_copies"

    name: Mapped[str] = mapped_column(String(81), primary_key=True)


class Worker(Base):
    """A worker process, as it announced itself: `store.workers`."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    """The name that it writes into the rows it holds: hostname:pid."""
    pool: Mapped[str] = mapped_column(String(60))
    device: Mapped[str] = mapped_column(String(20))
    """cpu or cuda."""
    slots: Mapped[int]
    """Jobs at a time."""
    hostname: Mapped[str] = mapped_column(String(200))
    version: Mapped[str] = mapped_column(String(40))
    started_at: Mapped[float]
    seen_at: Mapped[float]
    """Its last heartbeat."""
    state: Mapped[str] = mapped_column(String(20))
    """ready, draining or stopped."""


class Counter(Base):
    """A number that only rises, written in the transaction of what it counts: `store.counters`."""

    __tablename__ = "counters"
    __table_args__ = (PrimaryKeyConstraint("name", "labels"),)

    name: Mapped[str] = mapped_column(String(60))
    labels: Mapped[str] = mapped_column(String(300))
    """JSON object of strings, keys sorted: part of the key, and so text."""
    value: Mapped[float]


class Upload(Base):
    """A resumable upload. Its changes go through `store.uploads` and nothing else."""

    __tablename__ = "uploads"
    __table_args__ = (
        Index(None, "project_id", "id"),
        Index(None, "expires_at"),
        Index(None, "blob_digest"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    length_bytes: Mapped[int | None] = mapped_column(default=None)
    """Of the whole, once the client has said it; then it stays so."""
    offset_bytes: Mapped[int] = mapped_column(default=0)
    """How much has arrived and would survive a power cut. Never falls."""
    turn: Mapped[int] = mapped_column(default=0)
    """Only ever rises: the fencing token. The request that raised it last is the one whose content counts."""
    expected_digest: Mapped[str | None] = mapped_column(String(64), default=None)
    """What the client promised of the whole; null: nothing."""
    blob_digest: Mapped[str | None] = mapped_column(ForeignKey("blobs.digest"), default=None)
    """The whole; null until the upload is complete."""
    created_at: Mapped[float]
    expires_at: Mapped[float]


class UploadPart(Base):
    """Counted content of an upload that is not complete, in the order of `start_bytes`, without gaps."""

    __tablename__ = "upload_parts"

    name: Mapped[str] = mapped_column(String(81), primary_key=True)
    """Of its file or object, in the same place and form as a copy's name."""
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"), index=True)
    start_bytes: Mapped[int]
    size_bytes: Mapped[int]
    """What counts of it: its file may be longer."""


class Model(Leased, Base):
    __tablename__ = "models"
    __table_args__ = (
        Index(None, "project_id", "id"),
        Index("ix_models_waiting", "status", "lease_until", "id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(200))
    format: Mapped[str] = mapped_column(String(40))
    """exported_program, safetensors or architecture."""
    spec: Mapped[dict[str, Any]]
    """architecture, input_shape, num_classes, seed: as asked for; null where the architecture's default serves."""
    status: Mapped[str] = mapped_column(String(20))
    blob_digest: Mapped[str | None] = mapped_column(ForeignKey("blobs.digest"), index=True, default=None)
    """The weights. Null until validation has made them, where the model is a seeded architecture."""
    report: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    """What validation found: layers, counts, output layer; null until ready."""
    error: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    """{code, message, retryable}, where invalid."""
    created_at: Mapped[float]


class Dataset(Leased, Base):
    __tablename__ = "datasets"
    __table_args__ = (
        Index(None, "project_id", "id"),
        Index("ix_datasets_waiting", "status", "lease_until", "id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(200))
    format: Mapped[str] = mapped_column(String(40))
    """npz or safetensors."""
    status: Mapped[str] = mapped_column(String(20))
    blob_digest: Mapped[str] = mapped_column(ForeignKey("blobs.digest"), index=True)
    report: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    """{splits: {train: {num_examples, input_shape, ...}}}; null until ready."""
    error: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    created_at: Mapped[float]


_HELD = text("lease_until IS NOT NULL")
"""Of millions of jobs few are held at a time: a small index, which is all that a sweep for lost leases reads."""


class Job(Leased, Base):
    """Status changes go through `store.jobs.change` and nothing else."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index(None, "project_id", "id"),
        Index(None, "project_id", "created_at"),
        Index("ix_jobs_leases", "status", "lease_until"),
        Index("ix_jobs_held", "lease_until", sqlite_where=_HELD, postgresql_where=_HELD),
        Index(None, "sweep_at"),
        Index(None, "model_id"),
        Index(None, "dataset_id"),
        Index(None, "retried_from"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    recipe: Mapped[dict[str, Any]]
    """A full `pruning.recipe.Recipe`."""
    gates: Mapped[list[Any]]
    select: Mapped[str] = mapped_column(String(20))
    artifacts: Mapped[list[Any]]
    """Kinds that are offered for download; model, masks and ticket are stored in any case: a resume needs them."""
    pool: Mapped[str] = mapped_column(String(60))
    priority: Mapped[int] = mapped_column(default=0)
    """Higher goes first."""
    max_failures: Mapped[int] = mapped_column(default=3)
    queue_timeout_seconds: Mapped[float | None] = mapped_column(default=None)
    deadline_seconds: Mapped[float | None] = mapped_column(default=None)
    options: Mapped[dict[str, Any]]
    """cache and metadata, as given: echoed, read by nobody else yet."""
    keep_rounds: Mapped[str] = mapped_column(String(20), default="all")
    """all, pareto or selected: whose artifacts stay when the job has ended."""
    expires_in_seconds: Mapped[float | None] = mapped_column(default=None)
    """How long its artifacts stay after its end; null: for ever."""
    traceparent: Mapped[str | None] = mapped_column(String(60), default=None)
    """W3C Trace Context of the request that made the job; its attempts are spans of that trace."""
    retried_from: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"), default=None)

    status: Mapped[str] = mapped_column(String(20))
    conclusion: Mapped[str | None] = mapped_column(String(20), default=None)
    """passed, gate_failed, error, canceled or timed_out; null until the status is terminal."""
    error: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    determinism: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    """Device, CPU capability, threads and versions that computed it; null until the first attempt."""
    planned_rounds: Mapped[int]
    """How many rounds the recipe makes on this model if no floor ends it; round 0 not counted."""
    last_position: Mapped[int] = mapped_column(default=-1)
    """Position of the last stored entry; -1: none. A resume goes on behind it."""
    progress: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    """{round, step, steps} of the training that runs now, as of the last renewal."""
    selected_position: Mapped[int | None] = mapped_column(default=None)
    version: Mapped[int] = mapped_column(default=1)
    """Rises with every change that a reader could see."""
    num_events: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[float]
    queued_at: Mapped[float]
    started_at: Mapped[float | None] = mapped_column(default=None)
    finished_at: Mapped[float | None] = mapped_column(default=None)
    expires_at: Mapped[float | None] = mapped_column(default=None)
    """When its artifacts go, or went; null while it lives, and where they stay for ever."""
    sweep_at: Mapped[float | None] = mapped_column(default=None)
    """When the sweeper has artifacts of it to drop next; null: never."""


Index("ix_jobs_claim", Job.pool, Job.status, Job.priority.desc(), Job.id)  # in the order of the claims


class Attempt(Base):
    __tablename__ = "attempts"
    __table_args__ = (PrimaryKeyConstraint("job_id", "number"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    number: Mapped[int]
    worker: Mapped[str] = mapped_column(String(200))
    started_at: Mapped[float]
    ended_at: Mapped[float | None] = mapped_column(default=None)
    reason: Mapped[str | None] = mapped_column(String(400), default=None)
    """Why it ended; null while it runs."""
    code_version: Mapped[str | None] = mapped_column(String(40), default=None)
    """Of the service, on the worker."""
    determinism: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    """Class of machine that computed its rounds; null until its process has started."""


class Round(Base):
    """One entry of a job's result: a numbered round, or the unnumbered final one. Written once, never changed."""

    __tablename__ = "rounds"
    __table_args__ = (PrimaryKeyConstraint("job_id", "position"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    position: Mapped[int]
    number: Mapped[int | None]
    """Null: the final entry."""
    attempt: Mapped[int]
    sparsity: Mapped[float]
    """Fraction removed, actual."""
    report: Mapped[dict[str, Any]]
    """The round's shape on the wire, less what other columns and rows hold."""
    digests: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """By kind, of the files it was stored with: known still when these are gone."""
    created_at: Mapped[float]


class Checkpoint(Base):
    """What a job's training is midway in an entry: one row a job, gone when the entry is stored or the job ends."""

    __tablename__ = "checkpoints"
    __table_args__ = (Index(None, "blob_digest"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int]
    """That stored it."""
    position: Mapped[int]
    """Of the entry that trains: the one behind the last stored."""
    step: Mapped[int]
    """Steps of the entry that are done, its controls' among them."""
    furthest_step: Mapped[int]
    """Of all that were stored for this entry. A checkpoint behind it is no progress: its attempt had begun anew."""
    blob_digest: Mapped[str] = mapped_column(ForeignKey("blobs.digest"))
    created_at: Mapped[float]


class Artifact(Base):
    __tablename__ = "artifacts"
    __table_args__ = (
        UniqueConstraint("job_id", "position", "kind"),
        Index(None, "blob_digest"),
        Index(None, "project_id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    position: Mapped[int]
    kind: Mapped[str] = mapped_column(String(20))
    format: Mapped[str] = mapped_column(String(40))
    filename: Mapped[str] = mapped_column(String(200))
    size_bytes: Mapped[int]
    blob_digest: Mapped[str] = mapped_column(ForeignKey("blobs.digest"))
    created_at: Mapped[float]


class Event(Base):
    """What happened to a job, in order. `sequence` counts from 1 without gaps within a job."""

    __tablename__ = "events"
    __table_args__ = (PrimaryKeyConstraint("job_id", "sequence"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    sequence: Mapped[int]
    at: Mapped[float]
    type: Mapped[str] = mapped_column(String(40))
    data: Mapped[dict[str, Any]]


class Webhook(Base):
    """Where a project wants to hear of its jobs: `store.webhooks`."""

    __tablename__ = "webhooks"
    __table_args__ = (Index(None, "project_id", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    url: Mapped[str] = mapped_column(String(2000))
    events: Mapped[str] = mapped_column(String(400))
    """Types, each between two spaces, so that one LIKE finds it; or `*`, in the same manner."""
    description: Mapped[str] = mapped_column(String(400))
    enabled: Mapped[bool] = mapped_column(default=True)
    disabled_reason: Mapped[str | None] = mapped_column(String(400), default=None)
    """Where the service disabled it; null where its project did."""
    failing_since: Mapped[float | None] = mapped_column(default=None)
    """Since when every attempt failed; null: the last one went well, or none was made."""
    rotation: Mapped[int] = mapped_column(default=0)
    """Rises with every new secret, which derives from it."""
    rotated_at: Mapped[float | None] = mapped_column(default=None)
    created_at: Mapped[float]


class Delivery(Base):
    """One message to one webhook, written in the transaction of what it tells: `store.deliveries`."""

    __tablename__ = "deliveries"
    __table_args__ = (
        PrimaryKeyConstraint("webhook_id", "id"),
        Index(None, "next_attempt_at"),
        Index(None, "created_at"),
    )

    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    id: Mapped[str] = mapped_column(String(40))
    """Of the message: several webhooks may get the same one."""
    type: Mapped[str] = mapped_column(String(40))
    data: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(String(20))
    """pending, delivered or failed."""
    attempt: Mapped[int]
    """Only ever rises: the fencing token of whoever sends it."""
    attempts: Mapped[list[Any]]
    """{at, status_code, milliseconds, error} of the latest ones."""
    failures: Mapped[int]
    """Since it was made or asked for again: its place in the schedule of retries."""
    next_attempt_at: Mapped[float | None]
    """Null where it has ended. While somebody sends it, the end of the lease: should the sender die, it is due then."""
    created_at: Mapped[float]


class JobLabel(Base):
    """One entry of a job's metadata, to find the job by; `options` hold them all as they are shown."""

    __tablename__ = "job_labels"
    __table_args__ = (
        PrimaryKeyConstraint("job_id", "key"),
        Index("ix_job_labels_value", "project_id", "key", "value", "job_id"),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    project_id: Mapped[str] = mapped_column(String(40))
    key: Mapped[str] = mapped_column(String(64))
    value: Mapped[str] = mapped_column(String(512))


class IdempotencyKey(Base):
    """A request that is not done twice, and what it was answered: `store.idempotency`."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (PrimaryKeyConstraint("project_id", "route", "key"), Index(None, "expires_at"))

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    route: Mapped[str] = mapped_column(String(200))
    key: Mapped[str] = mapped_column(String(255))
    fingerprint: Mapped[str] = mapped_column(String(64))
    """sha256 of what was asked for, a streamed body aside."""
    content_digest: Mapped[str | None] = mapped_column(String(64), default=None)
    """sha256 of a streamed body, once it has come whole."""
    holder: Mapped[str] = mapped_column(String(40))
    """The request that does the work: the fencing token of a reservation."""
    status: Mapped[int | None] = mapped_column(default=None)
    """Of the answer; null: the work goes on."""
    headers: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    body: Mapped[str | None] = mapped_column(Text, default=None)
    expires_at: Mapped[float]
    """Of the answer; or of the reservation, which its holder renews while it works."""


class StepTime(Base):
    """How long a network takes to train on a pool, as finished rounds have shown: `store.step_times`."""

    __tablename__ = "step_times"
    __table_args__ = (PrimaryKeyConstraint("pool", "architecture", "batch_size"),)

    pool: Mapped[str] = mapped_column(String(60))
    architecture: Mapped[str] = mapped_column(String(64))
    """sha256 of its layers: networks that differ in their weights alone are one."""
    batch_size: Mapped[int]
    macs: Mapped[int | None] = mapped_column(default=None)
    """Of one example through the dense network."""
    seconds_per_step: Mapped[float]
    """An exponential mean, as the next three."""
    seconds_per_entry: Mapped[float]
    """Of an entry, beside its steps: pruning, evaluating, storing."""
    seconds_to_start: Mapped[float]
    """Of an attempt, before its first entry begins."""
    seconds_to_end: Mapped[float] = mapped_column(default=0.0)
    """Of a job, behind its last entry: its exports."""
    fraction_made: Mapped[float | None] = mapped_column(default=None)
    """Of the planned entries, by jobs that a floor or patience may end before; null: there was none yet."""
    num_measured: Mapped[int]
    """Entries."""
    measured_at: Mapped[float]
