"""Comparisons: jobs made together, ordered together and concluded together. Functions take a session, never commit.

Which job is a part: of those with one recipe and seed the newest, so that a retry, of the whole or of a part alone,
takes the place of what it does again. The status is derived where it is read (`store.wholes`). Its end is written by a
sweeper (`worker.conclusions`), which looks for open comparisons with no live job. So of two last parts that end at once
neither has to notice the other: whoever sweeps after both have committed sees both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, exists, func, select, update
from sqlalchemy.orm import Session

from store import audit, jobs, listing, retries, webhooks, wholes
from store.database import now
from store.ids import new_id
from store.tables import Comparison, Job, JobStatus, Round
from store.transitions import RETRY, TRANSITIONS, UNCHANGED, InvalidTransition, Trigger

LIVE = [status.value for status in JobStatus if not status.is_terminal]
BATCH = 20


def submit(
    session: Session, project_id: str, parts: Sequence[tuple[int, dict[str, Any]]], **columns: Any
) -> Comparison:
    """With its queued jobs, from (index of the recipe, the job's columns). The caller commits, then rings."""
    comparison = Comparison(id=new_id("cmp"), project_id=project_id, created_at=now(), **columns)
    session.add(comparison)
    session.flush()
    session.refresh(comparison)
    audit.record(session, "comparison.create", comparison.id, jobs=len(parts))
    for recipe, asked in parts:
        jobs.submit(session, project_id=project_id, comparison_id=comparison.id, comparison_recipe=recipe, **asked)
    return comparison


@dataclass(frozen=True)
class Whole:
    """A comparison and its parts, of one snapshot."""

    comparison: Comparison
    parts: dict[tuple[int, int], Job]
    """By (index of the recipe, seed); a part whose job was deleted is absent."""

    @property
    def status(self) -> JobStatus:
        return wholes.whole(
            wholes.Parts(
                frozenset(JobStatus(job.status) for job in self.parts.values()),
                any(job.started_at is not None for job in self.parts.values()),
                len(self.parts) < len(self.comparison.recipes) * len(self.comparison.seeds),
            )
        )

    @property
    def names(self) -> list[str]:
        """Of the recipes."""
        return [recipe["name"] for recipe in self.comparison.recipes]

    @property
    def etag(self) -> str:
        """Each job's version only rises, and where another job takes its place the comparison's does."""
        return f"r{self.comparison.version}.{sum(job.version for job in self.parts.values())}"


def read(session: Session, comparisons: Sequence[Comparison]) -> list[Whole]:
    """In their order; one query for any number of them."""
    wanted = select(Job).where(Job.comparison_id.in_([c.id for c in comparisons])).order_by(Job.created_at, Job.id)
    found = session.scalars(wanted.execution_options(populate_existing=True))
    every: dict[str, dict[tuple[int, int], Job]] = {comparison.id: {} for comparison in comparisons}
    for job in found:
        assert job.comparison_id is not None
        assert job.comparison_recipe is not None
        every[job.comparison_id][job.comparison_recipe, job.recipe["seed"]] = job  # the newest comes last
    return [Whole(comparison, every[comparison.id]) for comparison in comparisons]


Measured = tuple[str, int, str, list[tuple[int, int | None, float, dict[str, Any]]]]
"""Name of the recipe, seed, job, and its stored rounds in order: position, number, sparsity, report."""


def measured(session: Session, whole: Whole) -> list[Measured]:
    """Of every part."""
    ids = [job.id for job in whole.parts.values()]
    rounds: dict[str, list[tuple[int, int | None, float, dict[str, Any]]]] = {job_id: [] for job_id in ids}
    wanted = select(Round.job_id, Round.position, Round.number, Round.sparsity, Round.report)
    for row in session.execute(wanted.where(Round.job_id.in_(ids)).order_by(Round.job_id, Round.position)):
        rounds[row.job_id].append((row.position, row.number, row.sparsity, row.report))
    return [
        (whole.names[index], seed, job.id, rounds[job.id])
        for (index, seed), job in sorted(whole.parts.items(), key=_key)
    ]


def _key(part: tuple[tuple[int, int], Job]) -> tuple[int, int]:
    return part[0]


def order(session: Session, project_id: str, comparison_id: str, verb: Trigger) -> Whole | None:
    """Cancel, pause or resume every part that can be; those that have ended stay as they are. None: no such one here.

    Raises InvalidTransition where no part can, and none has had it done already: repeating is safe.
    """
    whole = _locked(session, project_id, comparison_id)
    if whole is None:
        return None
    statuses = {job.id: JobStatus(job.status) for job in whole.parts.values()}
    able = [job_id for job_id, status in statuses.items() if status in TRANSITIONS[verb]]
    if not able and not any(status in UNCHANGED[verb] for status in statuses.values()):
        raise NotAllowed(whole.status, verb, statuses.values())
    for job_id in sorted(able):
        jobs.order(session, project_id, job_id, verb)
    audit.record(session, f"comparison.{verb}", comparison_id, outcome="done" if able else "unchanged")
    [whole] = read(session, [whole.comparison])
    return whole


def retry(session: Session, project_id: str, comparison_id: str) -> tuple[Whole, int] | None:
    """Every part that failed or was canceled, made again. (The whole, how many new jobs.) None: no such one here.

    Raises InvalidTransition where none did and none is being retried.
    """
    whole = _locked(session, project_id, comparison_id)
    if whole is None:
        return None
    again = [job for job in whole.parts.values() if job.status in (JobStatus.FAILED, JobStatus.CANCELED)]
    if not again and not any(job.retried_from for job in whole.parts.values()):
        raise NotAllowed(whole.status, RETRY, [JobStatus(job.status) for job in whole.parts.values()])
    num_new = 0
    for job in sorted(again, key=lambda job: job.id):
        made = retries.retry(session, project_id, job.id)
        num_new += made is not None and made[1]
    audit.record(session, f"comparison.{RETRY}", comparison_id, outcome="done" if num_new else "unchanged")
    session.refresh(whole.comparison)
    [whole] = read(session, [whole.comparison])
    return whole, num_new


class NotAllowed(InvalidTransition):
    """`allowed`: what at least one of its parts allows."""

    def __init__(self, status: JobStatus, verb: str, parts: Any) -> None:
        super().__init__(status, verb)
        parts = list(parts)
        self.allowed = [t.value for t in UNCHANGED if any(part in TRANSITIONS[t] for part in parts)]
        if any(part in (JobStatus.FAILED, JobStatus.CANCELED) for part in parts):
            self.allowed.append(RETRY)
        self.args = (f"no job of a comparison that is {status} can {verb}",)


def remove(session: Session, project_id: str, comparison_id: str, keep_jobs: bool) -> bool:
    """With its jobs, those that were retried among them; or these go on as jobs of their own. False: there is none.

    Raises NotAllowed while a job lives.
    """
    whole = _locked(session, project_id, comparison_id)
    if whole is None:
        return False
    statuses = session.scalars(select(Job.status).where(Job.comparison_id == comparison_id)).all()
    if any(status in LIVE for status in statuses):
        raise NotAllowed(whole.status, "be deleted", [JobStatus(status) for status in statuses])
    own = Job.comparison_id == comparison_id
    if keep_jobs:
        _without_sync(
            session,
            update(Job).where(own).values(comparison_id=None, comparison_recipe=None, version=Job.version + 1),
        )
    else:
        _without_sync(session, delete(Job).where(own))
    _without_sync(session, delete(Comparison).where(Comparison.id == comparison_id))
    audit.record(session, "comparison.delete", comparison_id, kept_jobs=keep_jobs)
    return True


def due(session: Session) -> Sequence[Comparison]:
    """Open ones with no live job: to be concluded. Locked until the transaction ends, and no other sweeper's
    meanwhile; read what they are made of after this, since a retry that was waited for may have come between."""
    live = exists().where(Job.comparison_id == Comparison.id, Job.status.in_(LIVE))
    wanted = select(Comparison).where(Comparison.concluded_at.is_(None), ~live).order_by(Comparison.id).limit(BATCH)
    return session.scalars(wanted.with_for_update(skip_locked=True)).all()


def conclude(session: Session, whole: Whole, has_passed: bool) -> bool:
    """Of a comparison that `due` gave; whether it had ended. Webhooks hear of it, each time that its last part
    ends."""
    comparison, status = whole.comparison, whole.status
    if not status.is_terminal:  # retried since the look at its jobs: the retry had committed before the lock
        return False
    conclusion = wholes.conclusion_of(status, [job.conclusion for job in whole.parts.values()], has_passed)
    _without_sync(
        session,
        update(Comparison)
        .where(Comparison.id == comparison.id)
        .values(version=Comparison.version + 1, conclusion=conclusion, concluded_at=now()),
    )
    webhooks.tell_of(
        session, comparison.project_id, f"comparison.{status}",
        comparison=comparison.id, status=status, conclusion=conclusion,
    )  # fmt: skip
    return True


def versions(session: Session, ids: Sequence[str]) -> Sequence[Row[str, int, int]]:
    """(id, its own version, all that its jobs' versions sum up to), for whoever waits for a change."""
    return session.execute(
        select(Comparison.id, Comparison.version, func.coalesce(func.sum(Job.version), 0))
        .join(Job, Job.comparison_id == Comparison.id, isouter=True)
        .where(Comparison.id.in_(ids))
        .group_by(Comparison.id, Comparison.version)
    ).all()


def is_done() -> ColumnElement[bool]:
    """A condition on comparisons: all parts have ended."""
    return ~exists().where(Job.comparison_id == Comparison.id, Job.status.in_(LIVE))


def _locked(session: Session, project_id: str, comparison_id: str) -> Whole | None:
    """Its jobs' rows are ours until the transaction ends, locked in the order of their ids: two verbs on the whole wait
    for each other, and a worker that ends a part locks that job alone. The comparison's own row comes last of all."""
    comparison = listing.one(session, Comparison, project_id, comparison_id)
    if comparison is None:
        return None
    own = select(Job.id).where(Job.comparison_id == comparison_id).order_by(Job.id)
    session.execute(own.with_for_update()).all()
    [whole] = read(session, [comparison])
    return whole


def _without_sync(session: Session, statement: Any) -> None:
    session.execute(statement.execution_options(synchronize_session=False))
