"""What a job need not compute: entries that its project has already, and one that another of its jobs computes now.

A `Course` names a job's entries one after the other. Before a worker takes a job, `look_ahead` follows the names as far
as entries of other jobs go: these are adopted, the next is computed, unless somebody is at it, and then the job waits.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from pruning.budgets import Budget, RecipeRefused
from pruning.recipe import Recipe
from pruning.round_names import Contents, final_name, is_nameable, round_name
from pruning.schedules import layer_sizes
from pruning.selection import RoundRecord, last_passing
from pruning.stopping import what_follows
from store import counters, jobs, round_cache, underway
from store.database import Database
from store.tables import Dataset, Job, Model, Round
from worker.messages import RoundDone

if TYPE_CHECKING:
    from worker.attempts import JobAttempt

log = logging.getLogger(__name__)


class Waits(Exception):
    """The job's next round is computed for another job. Of the job it keeps values alone: the transaction that raises
    this is rolled back, and the row that it read is gone with it."""

    def __init__(self, job: Job, name: str) -> None:
        super().__init__(name)
        self.job_id, self.project_id, self.pool, self.name = job.id, job.project_id, job.pool, name


@dataclass(frozen=True)
class Course:
    """A job's entries so far, each with its name, on one class of machine."""

    recipe: Recipe
    budget: Budget
    contents: Contents
    determinism: Mapping[str, Any]
    entries: tuple[RoundRecord, ...] = ()
    names: tuple[str, ...] = ()

    def next(self) -> tuple[int | None, str] | None:
        """(number, name) of the entry that follows, None being the final one's number; None where nothing does."""
        follows, position = what_follows(self.recipe, self.budget, self.entries), len(self.entries)
        if follows == "nothing":
            return None
        previous = self.names[-1] if self.names else None
        if follows == "round":
            return position, round_name(self.recipe, position, previous, self.contents, self.determinism)
        assert previous is not None, "a final entry follows on a round"
        chosen = self.names[last_passing(self.entries, self.recipe.stop.accuracy_floor).position]
        return None, final_name(self.recipe, position, previous, chosen, self.contents, self.determinism)

    def after(self, entry: RoundRecord, name: str) -> Course:
        return dataclasses.replace(self, entries=(*self.entries, entry), names=(*self.names, name))


@dataclass(frozen=True)
class Ahead:
    """What a worker finds for a job that it takes. `is_all`: nothing is left to compute behind `sources`."""

    course: Course
    sources: list[Round]
    is_all: bool


def course_of(session: Session, job: Job, determinism: Mapping[str, Any]) -> Course | None:
    """None: its entries have no names, or one that is stored has none (it was computed before there were any, or
    disagreed with another)."""
    recipe = Recipe.model_validate(job.recipe)
    if not is_nameable(recipe):
        return None
    model, dataset = session.get_one(Model, job.model_id), session.get_one(Dataset, job.dataset_id)
    if model.report is None or model.blob_digest is None:
        return None
    try:
        budget = Budget.of(recipe, layer_sizes(model.report, recipe.granularity))
    except RecipeRefused:
        return None  # the child says why
    contents = Contents(
        model={"format": model.format, "spec": model.spec, "sha256": model.blob_digest},
        dataset={"format": dataset.format, "sha256": dataset.blob_digest},
    )
    course = Course(recipe, budget, contents, determinism)
    for row in jobs.stored_rounds(session, job.id):
        if row.name is None:
            return None
        course = course.after(record_of(row), row.name)
    return course


def adopts(job: Job) -> bool:
    return bool(job.options.get("cache", "on") == "on")


def look_ahead(session: Session, job: Job, determinism: Mapping[str, Any]) -> Ahead | None:
    """In the transaction that claims the job. None: there is nothing to know. Raises Waits."""
    course = course_of(session, job, determinism)
    if course is None:
        return None
    if not adopts(job):
        return Ahead(course, [], is_all=False)
    there, sources = course, list[Round]()
    while (follows := there.next()) is not None:
        number, name = follows
        source = round_cache.find(session, job.project_id, name)
        if source is None:
            if not underway.begin(session, job, name, number):
                raise Waits(job, name)
            return Ahead(course, sources, is_all=False)
        sources.append(source)
        there = there.after(record_of(source), name)
    return Ahead(course, sources, is_all=True)


def let_wait(database: Database, waits: Waits) -> None:
    """Until that round is stored, or its worker is gone: whoever ends it wakes the job."""
    with database.transaction() as session:
        if underway.wait(session, waits.job_id, waits.project_id, waits.name):
            counters.count(session, "rounds_awaited", pool=waits.pool)
            log.info("%s waits for its next round, which another job's worker computes", waits.job_id)


def adopt(attempt: JobAttempt, ahead: Ahead) -> bool:
    """Store the entries that there are as the job's own; whether all of them are, with nothing left to do but end.

    One transaction for each, as if they were computed: whoever polls sees them come, and what is killed midway goes on
    where it was.
    """
    attempt.course = ahead.course
    if not ahead.sources:
        return False
    lease, job = attempt.lease, attempt.job
    lease.write(lambda session: jobs.record_determinism(session, job.id, job.attempt, dict(ahead.course.determinism)))
    num_adopted = 0
    for source in ahead.sources:
        lease.renew_if_due()
        if lease.is_to_end or not lease.write(partial(_adopt_one, attempt, source)):
            break
        assert source.name is not None
        attempt.passed(record_of(source), source.name)
        num_adopted += 1
    log.info("%s attempt %d: %d rounds adopted", job.id, job.attempt, num_adopted)
    if num_adopted < len(ahead.sources):
        return False
    return ahead.is_all


def _adopt_one(attempt: JobAttempt, source: Round, session: Session) -> bool:
    job = attempt.job
    if jobs.has_stored(session, job, source.position):
        return True  # the connection was cut between the commit and its answer
    if not round_cache.adopt(session, job, source, attempt.lease.seconds):
        return False
    counters.count(session, "rounds_adopted", pool=job.pool)
    return True


def named_entry(
    session: Session, job: Job, course: Course | None, number: int | None, digests: Mapping[str, str]
) -> str | None:
    """The name of the entry that a child has made, which follows on the course's. None: it has none, or it came out
    otherwise than an entry of that name which another job computed: nobody can say which is right, so that one stays,
    and this one and what goes on from it are nobody else's. An event and a counter tell of it."""
    follows = course.next() if course is not None else None
    if follows is None or follows[0] != number:
        return None
    name = follows[1]
    differs = round_cache.disagreement(session, job, name, digests)
    if differs is None:
        return name
    data = {"round": "final" if number is None else number, **differs}
    log.warning("%s round %s came out otherwise than in job %s: %s", job.id, data["round"], data["job"], data["kinds"])
    jobs.remark(session, job, "round.disagrees", data)
    counters.count(session, "round_disagreements", pool=job.pool)
    return None


def begin_next(session: Session, job: Job, course: Course | None, done: RoundDone, name: str | None) -> Course | None:
    """The course behind that entry, in the transaction that stores it: the next is begun before anybody else can.

    Where another is at it nevertheless (it had the entries before from a job that does not adopt), both compute it: the
    child goes on already.
    """
    if course is None or name is None:
        return None
    report = done.report.model_dump()
    validation, seconds = report["metrics"].get("validation", {}), sum(report["seconds"].values())
    course = course.after(RoundRecord(done.position, done.number, done.sparsity, validation, seconds), name)
    if adopts(job) and (follows := course.next()) is not None:
        number, following = follows
        underway.begin(session, job, following, number)
    return course


def record_of(row: Round) -> RoundRecord:
    validation = row.report["metrics"].get("validation", {})
    seconds = sum(row.report.get("seconds", {}).values())
    return RoundRecord(row.position, row.number, row.sparsity, validation, seconds)
