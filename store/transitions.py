"""A job's status: the whole table of what may follow what, and the one guarded update that changes it.

Zero rows mean that the caller lost a race, or asked for the impossible; the row is then as it was. None of these
commits.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import case, insert, literal, null, update
from sqlalchemy.orm import Session

from store import checkpoints, counters, underway, webhooks
from store.database import now
from store.leases import holds
from store.tables import Event, Job, JobStatus

S = JobStatus


class Trigger(StrEnum):
    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    COMPLETE = "complete"
    """The loop ended by its own rules: schedule, target or floor."""
    FAIL = "fail"
    """The user's error: model, data, divergence, memory."""
    STOP = "stop"
    """The child has stopped as it was ordered to, by a pause or a cancel."""
    DRAIN = "drain"
    """The worker shuts down and gives the job back."""
    LOSE = "lose"
    """The lease ran out or the child died; failures are left."""
    GIVE_UP = "give_up"
    """The same, with no failure left."""
    QUEUE_TIMEOUT = "queue_timeout"
    DEADLINE = "deadline"


_BACK = {S.RUNNING: S.QUEUED, S.PAUSING: S.PAUSED, S.CANCELING: S.CANCELED}

TRANSITIONS: dict[Trigger, dict[JobStatus, JobStatus]] = {
    Trigger.CANCEL: {
        S.QUEUED: S.CANCELED,
        S.PAUSED: S.CANCELED,
        S.RUNNING: S.CANCELING,
        S.PAUSING: S.CANCELING,
    },
    Trigger.PAUSE: {S.QUEUED: S.PAUSED, S.RUNNING: S.PAUSING},
    Trigger.RESUME: {S.PAUSED: S.QUEUED},
    # A job whose last round is stored before the order reaches it has done its work.
    Trigger.COMPLETE: {S.RUNNING: S.SUCCEEDED, S.PAUSING: S.SUCCEEDED, S.CANCELING: S.SUCCEEDED},
    Trigger.FAIL: {S.RUNNING: S.FAILED, S.PAUSING: S.FAILED, S.CANCELING: S.CANCELED},
    Trigger.STOP: {S.PAUSING: S.PAUSED, S.CANCELING: S.CANCELED},
    Trigger.DRAIN: _BACK,
    Trigger.LOSE: _BACK,
    Trigger.GIVE_UP: {**_BACK, S.RUNNING: S.FAILED},
    Trigger.QUEUE_TIMEOUT: {S.QUEUED: S.FAILED},
    Trigger.DEADLINE: {status: S.FAILED for status in S if not status.is_terminal},
}
"""From (trigger, status) to the next status. A claim is its own statement (`store.jobs.claim`): queued to running."""

UNCHANGED: dict[Trigger, frozenset[JobStatus]] = {
    Trigger.CANCEL: frozenset({S.CANCELING, S.CANCELED}),
    Trigger.PAUSE: frozenset({S.PAUSING, S.PAUSED}),
    Trigger.RESUME: frozenset({S.QUEUED, S.RUNNING}),
}
"""Where a user's verb has already had its effect: repeating it is safe."""

RETRY = "retry"
"""A verb for jobs that have ended. No trigger: it changes no status, it makes another job (`store.retries`)."""


class InvalidTransition(Exception):
    def __init__(self, status: JobStatus, verb: str) -> None:
        self.status, self.verb = status, verb
        self.allowed = [t.value for t in UNCHANGED if status in TRANSITIONS[t]] + [RETRY] * status.is_terminal
        super().__init__(f"a job that is {status} cannot {verb}")


@dataclass(frozen=True)
class Changed:
    status: JobStatus
    failures: int


_CONCLUSIONS = {S.CANCELED: "canceled", S.FAILED: "error"}


def change(
    session: Session,
    job_id: str,
    trigger: Trigger,
    *,
    attempt: int | None = None,
    conclusion: str | None = None,
    error: dict[str, Any] | None = None,
    detail: dict[str, Any] | None = None,
    **values: Any,
) -> Changed | None:
    """Apply `trigger` wherever the job stands; what it became, or None where the table allows nothing.

    `attempt` fences: given, the caller must hold the job. `conclusion` is for a terminal status other than the usual
    canceled or error; `error` is written only where the job fails. An event tells of the change.
    """
    moves = TRANSITIONS[trigger]
    guard = holds(Job, job_id, attempt) if attempt is not None else [Job.id == job_id]
    lasting = {old: new for old, new in moves.items() if new not in (S.PAUSING, S.CANCELING)}
    ending = {old: new for old, new in moves.items() if new.is_terminal}
    failing = [old for old, new in moves.items() if new is S.FAILED]
    if lasting:
        # Whoever held the job holds it no longer; orders (pausing, canceling) leave the lease with the worker.
        values |= {"lease_until": case((Job.status.in_(lasting), null()), else_=Job.lease_until)}
        values |= {"worker": case((Job.status.in_(lasting), null()), else_=Job.worker)}
        values |= {"progress": null(), "awaits": null()}
    if ending:
        named = {
            old: literal(_CONCLUSIONS.get(new) if new is S.CANCELED else conclusion or _CONCLUSIONS.get(new))
            for old, new in ending.items()
        }
        values |= {"conclusion": case(named, value=Job.status, else_=null())}
        values |= {"finished_at": case((Job.status.in_(ending), now()), else_=null())}
        # From here its artifacts are the sweeper's to drop (`store/retention.py`).
        expires_at = now() + Job.expires_in_seconds
        sweep_at = case((Job.keep_rounds == "all", expires_at), else_=now())
        values |= {"expires_at": case((Job.status.in_(ending), expires_at), else_=null())}
        values |= {"sweep_at": case((Job.status.in_(ending), sweep_at), else_=null())}
    if failing and error is not None:
        values |= {"error": case((Job.status.in_(failing), literal(error, Job.error.type)), else_=null())}
    if S.QUEUED in moves.values():
        values |= {"queued_at": now()}
    row = session.execute(
        update(Job)
        .where(*guard, Job.status.in_(moves))
        .values(
            status=case({old.value: new.value for old, new in moves.items()}, value=Job.status),
            version=Job.version + 1,
            num_events=Job.num_events + 1,
            **values,
        )
        .returning(Job.status, Job.conclusion, Job.failures, Job.num_events, Job.project_id)
        .execution_options(synchronize_session=False)
    ).first()
    if row is None:
        return None
    still_held = row.status in (S.PAUSING, S.CANCELING)  # ordered to stop: its worker ends it
    if not still_held and underway.end(session, job_id) and row.status == S.QUEUED:
        session.execute(update(Job).where(Job.id == job_id).values(is_awaited=True))
    if JobStatus(row.status).is_terminal:
        counters.count(session, "jobs_ended", status=row.status, conclusion=row.conclusion)
    data = {"trigger": trigger.value, **(detail or {})}
    if JobStatus(row.status).is_terminal:
        checkpoints.remove(session, job_id)
    session.execute(
        insert(Event).values(job_id=job_id, sequence=row.num_events, at=now(), type=f"job.{row.status}", data=data)
    )
    webhooks.tell(session, row.project_id, f"job.{row.status}", job_id, status=row.status, conclusion=row.conclusion)
    return Changed(JobStatus(row.status), row.failures)
