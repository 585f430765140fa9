"""The life of a job: submitted, claimed, its rounds stored, ended. Functions take a session and never commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from store import audit, checkpoints, counters, labels, leases, listing, traces, turns, underway, webhooks
from store.blobs import StoredBlob
from store.database import now
from store.ids import new_id
from store.leases import Fenced, holds
from store.tables import Artifact, Attempt, Event, Job, JobStatus, Round
from store.transitions import UNCHANGED, Changed, InvalidTransition, Trigger, change
from store.version import VERSION


def submit(session: Session, **columns: Any) -> Job:
    """A queued job and its first event. The caller commits, then rings."""
    job = Job(id=new_id("job"), status=JobStatus.QUEUED, created_at=now(), queued_at=now(), num_events=1, **columns)
    session.add(job)
    session.flush()
    session.execute(insert(Event).values(job_id=job.id, sequence=1, at=now(), type="job.queued", data={}))
    webhooks.tell(session, job.project_id, "job.queued", job.id, status="queued", conclusion=None)
    session.refresh(job)
    labels.write(session, job)
    audit.record(session, "job.create", job.id, project_id=job.project_id)
    return job


def find(session: Session, project_id: str, job_id: str) -> Job | None:
    return session.scalar(select(Job).where(Job.id == job_id, Job.project_id == project_id))


def order(session: Session, project_id: str, job_id: str, verb: Trigger) -> Job | None:
    """A user's cancel, pause or resume. None: no such job here. Raises InvalidTransition; repeating is safe."""
    job = listing.one(session, Job, project_id, job_id, lock="change")
    if job is None:
        return None
    is_changed = change(session, job_id, verb) is not None
    session.refresh(job)
    if not is_changed and JobStatus(job.status) not in UNCHANGED[verb]:
        raise InvalidTransition(JobStatus(job.status), verb)
    audit.record(session, f"job.{verb}", job_id, outcome="done" if is_changed else "unchanged")
    return job


# What a worker does. Each write is guarded by (job, attempt): a worker that lost its lease meets zero rows.


def claim(session: Session, pool: str, worker: str, lease_seconds: float) -> Job | None:
    """The queued job of a pool whose turn it is (`store.turns`) as this worker's own, or None."""
    job_id = leases.claim(
        session,
        Job,
        turns.can_be_claimed(Job, pool),
        turns.next_job(session, pool),
        worker,
        lease_seconds,
        status=JobStatus.RUNNING,
        version=Job.version + 1,
        num_events=Job.num_events + 1,
    )
    if job_id is None:
        return None
    session.execute(update(Job).where(Job.id == job_id, Job.started_at.is_(None)).values(started_at=now()))
    job = session.scalars(select(Job).where(Job.id == job_id).execution_options(populate_existing=True)).one()
    session.execute(
        insert(Attempt).values(job_id=job_id, number=job.attempt, worker=worker, started_at=now(), code_version=VERSION)
    )
    data = {"attempt": job.attempt, "worker": worker}
    session.execute(
        insert(Event).values(job_id=job_id, sequence=job.num_events, at=now(), type="job.running", data=data)
    )
    webhooks.tell(session, job.project_id, "job.running", job_id, status="running", conclusion=None)
    return job


def renew(
    session: Session, job_id: str, attempt: int, lease_seconds: float, progress: dict[str, Any] | None
) -> JobStatus:
    """The job's status is the worker's order. Raises Fenced."""
    seen = {"progress": progress, "version": Job.version + 1} if progress is not None else {}
    return JobStatus(leases.renew(session, Job, job_id, attempt, lease_seconds, **seen))


def record_determinism(session: Session, job_id: str, attempt: int, determinism: dict[str, Any]) -> None:
    """The class of machine that computes this attempt. A resume in another class is said in an event: the rounds of
    that attempt, and those after it, are not promised to be what one class alone would have made."""
    before = session.execute(select(Job.determinism).where(*holds(Job, job_id, attempt)).with_for_update()).first()
    if before is None:
        raise Fenced(job_id)
    if before.determinism is not None and before.determinism != determinism:
        data = {"attempt": attempt, "before": before.determinism, "now": determinism}
        _emit(session, job_id, "job.determinism_changed", data)
    session.execute(update(Job).where(Job.id == job_id).values(determinism=determinism, version=Job.version + 1))
    session.execute(
        update(Attempt).where(Attempt.job_id == job_id, Attempt.number == attempt).values(determinism=determinism)
    )


@dataclass(frozen=True)
class NewArtifact:
    kind: str
    format: str
    filename: str
    blob: StoredBlob
    verified: dict[str, Any] | None = None


def record_round(
    session: Session,
    job: Job,
    *,
    position: int,
    number: int | None,
    sparsity: float,
    report: dict[str, Any],
    artifacts: Sequence[NewArtifact],
    lease_seconds: float,
    name: str | None = None,
    adopted_from: str | None = None,
) -> None:
    """One more entry, whole or not at all, in the transaction that referred to its blobs (`store.blobs.refer`). Jobs
    that waited for it are free.

    Args:
        name: of the entry (`pruning.round_names`).
        adopted_from: the job that computed it, if it was another.

    Raises Fenced where the attempt or the position is not the awaited one.
    """
    status = session.execute(
        update(Job)
        .where(*holds(Job, job.id, job.attempt), Job.last_position == position - 1)
        .values(
            last_position=position,
            failures=0,
            is_awaited=False,
            lease_until=now() + lease_seconds,
            version=Job.version + 1,
        )
        .returning(Job.status)
        .execution_options(synchronize_session=False)
    ).scalar()
    if status is None:
        raise Fenced(job.id)
    checkpoints.remove(session, job.id)
    if adopted_from is None:  # else it computes a later one
        underway.end(session, job.id)
    session.execute(
        insert(Round).values(
            job_id=job.id,
            position=position,
            number=number,
            attempt=job.attempt,
            sparsity=sparsity,
            report=report,
            digests={artifact.kind: artifact.blob.digest for artifact in artifacts},
            name=name,
            adopted_from=adopted_from,
            created_at=now(),
        )
    )
    for artifact in artifacts:
        _insert(session, job, position, artifact)
    data: dict[str, Any] = {"position": position, "number": number, "sparsity": sparsity}
    _emit(session, job.id, "round.stored", data | ({"adopted_from": adopted_from} if adopted_from else {}))
    told = {"round": "final" if number is None else number, "status": status, "conclusion": None}
    webhooks.tell(session, job.project_id, "round.stored", job.id, **told)


def has_stored(session: Session, job: Job, position: int) -> bool:
    """Whether this attempt, which still holds the job, stored that entry: a commit's answer can get lost."""
    stored = select(Round.position).where(
        *holds(Job, job.id, job.attempt),
        Round.job_id == Job.id,
        Round.position == position,
        Round.attempt == job.attempt,
    )
    return session.scalar(stored) is not None


def attach(session: Session, job: Job, position: int, artifact: NewArtifact) -> None:
    """One more artifact of a stored round; an earlier attempt's, cut off behind it, gives way. Raises Fenced."""
    _hold(session, job)
    session.execute(
        delete(Artifact).where(Artifact.job_id == job.id, Artifact.position == position, Artifact.kind == artifact.kind)
    )
    _insert(session, job, position, artifact)


def remark(session: Session, job: Job, type_: str, data: dict[str, Any]) -> None:
    """An event of this attempt, for its user to read. Raises Fenced."""
    _hold(session, job)
    _emit(session, job.id, type_, data)


def _hold(session: Session, job: Job) -> None:
    """The job's row, locked and still this attempt's. Raises Fenced."""
    if session.scalar(select(Job.id).where(*holds(Job, job.id, job.attempt)).with_for_update()) is None:
        raise Fenced(job.id)


def _insert(session: Session, job: Job, position: int, artifact: NewArtifact) -> None:
    session.execute(
        insert(Artifact).values(
            id=new_id("art"),
            project_id=job.project_id,
            job_id=job.id,
            position=position,
            kind=artifact.kind,
            format=artifact.format,
            filename=artifact.filename,
            size_bytes=artifact.blob.size_bytes,
            blob_digest=artifact.blob.digest,
            verified=artifact.verified,
            created_at=now(),
        )
    )


def complete(session: Session, job_id: str, attempt: int, selected_position: int, passed: bool) -> None:
    """The loop ended by its own rules. Raises Fenced."""
    changed = change(
        session,
        job_id,
        Trigger.COMPLETE,
        attempt=attempt,
        conclusion="passed" if passed else "gate_failed",
        detail={"selected_position": selected_position},
        selected_position=selected_position,
    )
    _end_attempt(session, job_id, attempt, "completed", "completed", changed)


def fail(session: Session, job_id: str, attempt: int, error: dict[str, Any]) -> None:
    """The user's error: not retried, completed rounds kept. Raises Fenced."""
    changed = change(session, job_id, Trigger.FAIL, attempt=attempt, error=error, detail={"code": error["code"]})
    _end_attempt(session, job_id, attempt, error["code"], error["code"], changed)


def give_back(session: Session, job_id: str, attempt: int, trigger: Trigger, reason: str) -> None:
    """STOP (as ordered) or DRAIN (the worker shuts down): neither is a failure. Raises Fenced."""
    changed = change(session, job_id, trigger, attempt=attempt)
    code = changed.status.value if changed and changed.status != JobStatus.QUEUED else "given_back"
    _end_attempt(session, job_id, attempt, code, reason, changed)


def lose(session: Session, job_id: str, attempt: int, reason: str, code: str = "child_lost") -> Changed:
    """The child died or the lease ran out: queued again, or failed where `max_failures` is reached. Raises Fenced."""
    held = session.execute(
        select(Job.failures, Job.max_failures).where(*holds(Job, job_id, attempt)).with_for_update()
    ).first()
    if held is None:
        raise Fenced(job_id)
    if held.failures + 1 < held.max_failures:
        changed = change(
            session,
            job_id,
            Trigger.LOSE,
            attempt=attempt,
            detail={"reason": reason},
            failures=Job.failures + 1,
        )
    else:
        error = {
            "code": "worker_lost",
            "message": f"{held.failures + 1} attempts in a row ended without getting further; the last: {reason}",
            "retryable": True,
        }
        changed = change(session, job_id, Trigger.GIVE_UP, attempt=attempt, error=error, failures=Job.failures + 1)
    return _end_attempt(session, job_id, attempt, code, reason, changed)


def _end_attempt(
    session: Session, job_id: str, attempt: int, code: str, reason: str, changed: Changed | None
) -> Changed:
    """`reason` is for people; `code` is one of `counters.ENDS`, or counts as `failed`."""
    if changed is None:
        raise Fenced(job_id)
    counters.count_end(session, code)
    traces.note_end(code)
    session.execute(
        update(Attempt)
        .where(Attempt.job_id == job_id, Attempt.number == attempt)
        .values(ended_at=now(), reason=reason[:400])
    )
    return changed


def _emit(session: Session, job_id: str, type_: str, data: dict[str, Any]) -> None:
    sequence = session.execute(
        update(Job)
        .where(Job.id == job_id)
        .values(num_events=Job.num_events + 1)
        .returning(Job.num_events)
        .execution_options(synchronize_session=False)
    ).scalar_one()
    session.execute(insert(Event).values(job_id=job_id, sequence=sequence, at=now(), type=type_, data=data))


def stored_rounds(session: Session, job_id: str) -> list[Round]:
    """In order of position."""
    return list(session.scalars(select(Round).where(Round.job_id == job_id).order_by(Round.position)))


def stored_artifacts(session: Session, job_id: str, position: int) -> list[Artifact]:
    return list(session.scalars(select(Artifact).where(Artifact.job_id == job_id, Artifact.position == position)))


def events(session: Session, job_id: str, after: int = 0, limit: int = 1000) -> list[Event]:
    """In order of sequence, from behind `after`."""
    later = select(Event).where(Event.job_id == job_id, Event.sequence > after)
    return list(session.scalars(later.order_by(Event.sequence).limit(limit)))
