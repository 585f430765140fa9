"""A job as it is shown: its row, and what stands around it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from api.documents import AttemptDocument, EntryName, JobDocument, Progress, WaitingFor
from store import listing
from store.listing import Surroundings
from store.tables import Job, JobStatus


def job_documents(session: Session, jobs: Sequence[Job]) -> list[JobDocument]:
    around = listing.surroundings(session, jobs)
    return [_document(job, around[job.id]) for job in jobs]


def entry_name(number: int | None) -> EntryName:
    return "final" if number is None else number


def _document(job: Job, around: Surroundings) -> JobDocument:
    selected = job.selected_position
    return JobDocument(
        id=job.id,
        status=job.status,
        done=JobStatus(job.status).is_terminal,
        conclusion=job.conclusion,
        retried_from=job.retried_from,
        comparison=job.comparison_id,
        model=job.model_id,
        dataset=job.dataset_id,
        recipe=job.recipe,
        progress=_progress(job, around),
        selected_round=None if selected is None else entry_name(around.round_numbers[selected]),
        gates=job.gates,
        select=job.select,
        pool=job.pool,
        priority=job.priority,
        queue_position=around.queue_position,
        waiting_for=around.waits_for and WaitingFor(job=around.waits_for[0], round=entry_name(around.waits_for[1])),
        attempts=[
            AttemptDocument(
                number=attempt.number,
                started_at=attempt.started_at,
                ended_at=attempt.ended_at,
                reason=attempt.reason,
                worker=attempt.worker,
            )
            for attempt in around.attempts
        ],
        failures=job.failures,
        max_failures=job.max_failures,
        queue_timeout_seconds=job.queue_timeout_seconds,
        deadline_seconds=job.deadline_seconds,
        keep_rounds=job.keep_rounds,
        expires_in_seconds=job.expires_in_seconds,
        artifacts=job.artifacts,
        cache=job.options.get("cache", "on"),
        metadata=job.options.get("metadata", {}),
        error=job.error,
        determinism=job.determinism,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        expires_at=job.expires_at,
    )


def _progress(job: Job, around: Surroundings) -> Progress:
    num_entries, num_done = _num_entries(job), _num_done(job)
    live = job.progress or {}
    latest: EntryName | None = None
    if _trains_next(job):
        latest = entry_name(live["round"])
    elif job.last_position >= 0:
        latest = entry_name(around.round_numbers[job.last_position])

    eta_seconds = None
    done_in_attempt = around.num_rounds_of_attempt + num_done - (job.last_position + 1)
    if job.status == JobStatus.RUNNING and around.attempts and done_in_attempt > 0:
        elapsed_seconds = around.read_at - around.attempts[-1].started_at
        eta_seconds = round(elapsed_seconds / done_in_attempt * max(0.0, num_entries - num_done), 1)
    return Progress(round=latest, rounds=job.planned_rounds, fraction=fraction_of(job), eta_seconds=eta_seconds)


def fraction_of(job: Job) -> float:
    """Of the job that is done. Every entry counts alike: round 0, the numbered rounds, and the final entry where the
    recipe makes one."""
    return 1.0 if job.status == JobStatus.SUCCEEDED else min(1.0, _num_done(job) / _num_entries(job))


def _num_entries(job: Job) -> int:
    finally_ = job.recipe.get("finally", {})
    has_final = finally_.get("weights", "none") != "none" or finally_.get("train", False)
    return job.planned_rounds + 1 + int(has_final)


def _num_done(job: Job) -> float:
    """Stored entries, and the part of the one that trains."""
    live = job.progress or {}
    return job.last_position + 1 + (live["step"] / live["steps"] if _trains_next(job) else 0.0)


def _trains_next(job: Job) -> bool:
    """Right after a round was stored, the last renewal still tells of that one."""
    live = job.progress or {}
    return bool(live) and live["round"] in (job.last_position + 1, None)
