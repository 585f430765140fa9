"""The service's JSON as types. They describe it and check nothing at run time, so a field that a newer service adds
is simply there; the ones below are promised."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

EntryName = int | Literal["final"]
"""A round's number, or `final` for the unnumbered entry behind the last round."""


class Problem(TypedDict):
    """RFC 9457. `param` is a JSON pointer to what was wrong; `errors` lists all of it."""

    status: int
    title: str
    code: NotRequired[str]
    detail: NotRequired[str]
    param: NotRequired[str | None]
    errors: NotRequired[list[dict[str, Any]]]
    request_id: NotRequired[str]
    retryable: NotRequired[bool]
    allowed: NotRequired[list[str]]


class Failure(TypedDict):
    code: str
    message: str
    retryable: bool


class Model(TypedDict):
    id: str
    name: str
    status: Literal["validating", "ready", "invalid"]
    format: str
    size_bytes: int | None
    sha256: str | None
    num_parameters: int | None
    num_prunable: int | None
    layers: list[dict[str, Any]] | None
    error: Failure | None


class Dataset(TypedDict):
    id: str
    name: str
    status: Literal["validating", "ready", "invalid"]
    splits: dict[str, Any] | None
    error: Failure | None


class Progress(TypedDict):
    """`fraction` of the whole job, from 0 to 1; `round` is null until the first one trains."""

    round: EntryName | None
    rounds: int
    fraction: float
    eta_seconds: float | None


class OtherEntry(TypedDict):
    """A round of another job of the project."""

    job: str
    round: EntryName


class Job(TypedDict):
    """`status` says whether the service did its work, `conclusion` whether the result passed the gates."""

    id: str
    status: Literal["queued", "running", "pausing", "paused", "canceling", "succeeded", "failed", "canceled"]
    done: bool
    conclusion: Literal["passed", "gate_failed", "error", "canceled", "timed_out"] | None
    retried_from: str | None
    model: str
    dataset: str
    recipe: dict[str, Any]
    progress: Progress
    waiting_for: OtherEntry | None
    selected_round: EntryName | None
    gates: list[dict[str, Any]]
    attempts: list[dict[str, Any]]
    error: Failure | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    expires_at: str | None


class Event(TypedDict):
    """`sequence` counts from 1 within the job."""

    job: str
    sequence: int
    type: str
    at: str
    data: dict[str, Any]


class Sparsity(TypedDict):
    """Fractions removed."""

    target: float
    actual: float


class Artifact(TypedDict):
    id: str
    job: str
    round: EntryName
    kind: str
    format: str
    filename: str
    size_bytes: int
    sha256: str
    verified: dict[str, Any] | None


class Round(TypedDict):
    """`number` is null for the final entry, whose `selected` is true where the job's `selected_round` is `final`.
    `num_parameters` and `num_nonzero` count prunable weights."""

    number: int | None
    selected: bool
    sparsity: Sparsity
    num_parameters: int
    num_nonzero: int
    layers: list[dict[str, Any]]
    metrics: dict[str, dict[str, float]]
    artifacts: list[Artifact]
    adopted_from: OtherEntry | None


class HeldJob(TypedDict):
    job: str
    attempt: int
    since: str


class Worker(TypedDict):
    """`jobs` are those of one's own project; `busy_slots` counts those of all."""

    id: str
    pool: str
    device: str
    slots: int
    alive: bool
    state: Literal["idle", "busy", "draining", "stopped", "silent"]
    busy_slots: int
    jobs: list[HeldJob]
    extras: list[str] | None
    started_at: str
    seen_at: str


class Queue(TypedDict):
    """Stuck where something waits and `workers`, those alive that serve it, are 0."""

    pool: str
    depth: int
    oldest_seconds: float | None
    workers: int


class Workers(TypedDict):
    data: list[Worker]
    queues: list[Queue]


class Key(TypedDict):
    """`last_used_at` is up to a minute late."""

    id: str
    project: str
    name: str
    scopes: list[Literal["read", "write", "ops", "admin"]]
    status: Literal["active", "expired", "revoked"]
    created_at: str
    expires_at: str | None
    last_used_at: str | None


class NewKey(Key):
    key: str


class Pareto(TypedDict):
    """`data` holds flat rows: round, sparsity, pareto, selected, validation_accuracy, ..., numbers or null."""

    job: str
    metric: Literal["accuracy", "loss"]
    data: list[dict[str, Any]]


class Link(TypedDict):
    artifact: str
    url: str
    expires_at: str


class Envelope(TypedDict):
    """DSSE v1; `payload` is base64 of an in-toto Statement v1."""

    payloadType: str
    payload: str
    signatures: list[dict[str, str]]


class Plan(TypedDict):
    """A job as it would be: its recipe filled in, the sparsity of each round, and what it would take."""

    model: str
    dataset: str
    recipe: dict[str, Any]
    gates: list[dict[str, Any]]
    rounds: list[dict[str, Any]]
    estimate: dict[str, Any]


class Strategy(TypedDict):
    name: str
    title: str
    source: str
    defaults: dict[str, Any]


class Webhook(TypedDict):
    """`disabled_reason`: why the service disabled it; null where it did not."""

    id: str
    url: str
    events: list[str]
    description: str
    enabled: bool
    disabled_reason: str | None
    failing_since: str | None
    rotated_at: str | None
    created_at: str


class NewWebhook(Webhook):
    """`secret`: shown this once."""

    secret: str


class Delivery(TypedDict):
    """One message to one webhook. `id` is the header `webhook-id`; `attempts` are the latest 20, oldest first."""

    id: str
    webhook: str
    type: str
    data: dict[str, Any]
    status: Literal["pending", "delivered", "failed"]
    attempts: list[dict[str, Any]]
    next_attempt_at: str | None
    created_at: str


class Project(TypedDict):
    """`quotas` that hold (null: no limit); `usage` is null in lists."""

    id: str
    name: str
    quotas: dict[str, int | None]
    usage: dict[str, int | None] | None
    created_at: str


class TrustRule(TypedDict):
    id: str
    name: str
    issuer: str
    audience: str
    jwks_url: str | None
    conditions: dict[str, str]
    scopes: list[str]
    key_seconds: int
    created_at: str


class AuditEntry(TypedDict):
    """`key` is who did it; null: a CI's token, by no key."""

    id: str
    at: str
    key: str | None
    action: str
    target: str | None
    outcome: Literal["done", "unchanged", "refused"]
    request_id: str
    detail: dict[str, Any]
