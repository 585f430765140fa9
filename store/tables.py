"""Every table. Times are seconds since 1970 by the database's clock; digests are sha256 in hex."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ForeignKey,
    Index,
    PrimaryKeyConstraint,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from store.access_tables import ApiKey as ApiKey
from store.access_tables import AuditEntry as AuditEntry
from store.access_tables import ExchangedToken as ExchangedToken
from store.access_tables import Project as Project
from store.access_tables import TrustRule as TrustRule
from store.comparison_tables import Comparison as Comparison
from store.request_tables import IdempotencyKey as IdempotencyKey
from store.request_tables import Upload as Upload
from store.request_tables import UploadPart as UploadPart
from store.schema import Base as Base
from store.webhook_tables import Delivery as Delivery
from store.webhook_tables import Webhook as Webhook
from store.worker_tables import Counter as Counter
from store.worker_tables import StepTime as StepTime
from store.worker_tables import Worker as Worker


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
_AWAITS = text("awaits IS NOT NULL")
_CLAIMABLE = text("status = 'queued' AND awaits IS NULL")


class Job(Leased, Base):
    """Status changes go through `store.jobs.change` and nothing else."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index(None, "project_id", "id"),
        Index(None, "project_id", "created_at"),
        Index("ix_jobs_leases", "status", "lease_until"),
        Index("ix_jobs_held", "lease_until", sqlite_where=_HELD, postgresql_where=_HELD),
        Index("ix_jobs_busy", "pool", "project_id", sqlite_where=_HELD, postgresql_where=_HELD),
        Index("ix_jobs_awaits", "project_id", "awaits", sqlite_where=_AWAITS, postgresql_where=_AWAITS),
        Index(None, "sweep_at"),
        Index(None, "model_id"),
        Index(None, "dataset_id"),
        Index(None, "retried_from"),
        Index(None, "comparison_id"),
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
    """cache (on or off: whether rounds of other jobs are adopted), and metadata, which is only echoed."""
    keep_rounds: Mapped[str] = mapped_column(String(20), default="all")
    """all, pareto or selected: whose artifacts stay when the job has ended."""
    expires_in_seconds: Mapped[float | None] = mapped_column(default=None)
    """How long its artifacts stay after its end; null: for ever."""
    traceparent: Mapped[str | None] = mapped_column(String(60), default=None)
    """W3C Trace Context of the request that made the job; its attempts are spans of that trace."""
    retried_from: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"), default=None)
    comparison_id: Mapped[str | None] = mapped_column(ForeignKey("comparisons.id", ondelete="SET NULL"), default=None)
    """That it is a part of; of several with one recipe and seed, the newest is the part: the others were retried."""
    comparison_recipe: Mapped[int | None] = mapped_column(default=None)
    """Index of its recipe there."""

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
    awaits: Mapped[str | None] = mapped_column(String(64), default=None)
    """The name of the round that it needs next while a worker computes it for another job (`Underway`): nobody takes
    the job then. Null otherwise."""
    is_awaited: Mapped[bool] = mapped_column(default=False)
    """It was given back in the middle of a round that other jobs waited for: it goes first."""
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


Index("ix_jobs_claim", Job.pool, Job.status, Job.priority.desc(), Job.id)  # a queue in its order
Index(  # in the order of the claims: `store/turns.py`
    "ix_jobs_turns",
    Job.pool,
    Job.priority.desc(),
    Job.project_id,
    Job.is_awaited.desc(),
    Job.id,
    sqlite_where=_CLAIMABLE,
    postgresql_where=_CLAIMABLE,
)


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
    __table_args__ = (PrimaryKeyConstraint("job_id", "position"), Index(None, "name"))

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
    name: Mapped[str | None] = mapped_column(String(64), default=None)
    """Digest of all that determines it (`pruning.round_names`); null: not known, and so nobody adopts it."""
    adopted_from: Mapped[str | None] = mapped_column(String(40), default=None)
    """The job that computed it, which may be gone; null: this one did."""
    created_at: Mapped[float]


class Underway(Base):
    """A round that a worker computes now, so that nobody else begins it: `store/underway.py`. There exactly while the
    worker holds its job."""

    __tablename__ = "underway"
    __table_args__ = (PrimaryKeyConstraint("project_id", "name"), UniqueConstraint("job_id"))

    project_id: Mapped[str] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(String(64))
    """Of the round, as `rounds.name`."""
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    number: Mapped[int | None]
    """Of the round; null: the final entry."""
    is_awaited: Mapped[bool] = mapped_column(default=False)
    """Whether other jobs wait for it."""


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
    verified: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    """How an ONNX file was held against the network, as its child said; null for other kinds."""
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
