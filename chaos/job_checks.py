"""Of jobs: none lost, each ended once, every write by whoever held the job, results as if nothing had happened."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from chaos.evidence import SAME, Evidence, digests_of
from store.tables import Artifact, Attempt, Dataset, Event, IntakeStatus, Job, JobStatus, Model, Round

TERMINAL = {f"job.{status.value}" for status in JobStatus if status.is_terminal}


def no_job_is_lost(evidence: Evidence) -> list[str]:
    """Whatever was acknowledged is there and has ended; so has whatever was stored without its user hearing of it."""
    with evidence.database.reading() as session:
        statuses = {row.id: JobStatus(row.status) for row in session.execute(select(Job.id, Job.status))}
    wrong = [f"{job}: acknowledged, and there is no such row" for job in evidence.posted if job not in statuses]
    return wrong + [f"{job}: still {status}" for job, status in statuses.items() if not status.is_terminal]


def no_upload_is_lost(evidence: Evidence) -> list[str]:
    wrong = []
    with evidence.database.reading() as session:
        for dataset, digest in evidence.uploaded.items():
            kept = session.get(Dataset, dataset)
            if kept is None:
                wrong.append(f"{dataset}: acknowledged, and there is no such row")
            elif kept.blob_digest != digest:
                wrong.append(f"{dataset}: holds {kept.blob_digest}, was told to be {digest}")
        for row in (*session.scalars(select(Model)), *session.scalars(select(Dataset))):
            if row.status == IntakeStatus.VALIDATING or row.lease_until is not None:
                wrong.append(f"{row.id}: not validated")
            elif row.status == IntakeStatus.INVALID and (row.error or {}).get("code") != "worker_lost":
                wrong.append(f"{row.id}: valid, and was found invalid: {row.error}")
    return wrong


def each_job_ends_once(evidence: Evidence) -> list[str]:
    """One terminal event, the last one, of the row's own status; events are numbered from 1 without a gap."""
    wrong = []
    with evidence.database.reading() as session:
        events = _events(session)
        for job in session.scalars(select(Job)):
            types = [event.type for event in events[job.id]]
            ends = [type_ for type_ in types if type_ in TERMINAL]
            if ends != [f"job.{job.status}"] or types[-1] not in TERMINAL:
                wrong.append(f"{job.id}: is {job.status}, its events are {', '.join(types)}")
            sequences = [event.sequence for event in events[job.id]]
            if sequences != list(range(1, job.num_events + 1)):
                wrong.append(f"{job.id}: {job.num_events} events, numbered {sequences}")
            if job.finished_at is None or job.conclusion is None:
                wrong.append(f"{job.id}: ended, with neither a time nor a conclusion")
    return wrong


def no_stale_write_is_accepted(evidence: Evidence) -> list[str]:
    """Replays each job's events: an entry was stored by the attempt that held the job at that very moment, as the
    next position. A holder is one at a time, and its number rises."""
    with evidence.database.reading() as session:
        events, rounds = _events(session), defaultdict[str, dict[int, Round]](dict)
        for round_ in session.scalars(select(Round)):
            rounds[round_.job_id][round_.position] = round_
        jobs = list(session.scalars(select(Job)))
    return [line for job in jobs for line in _replay(job, events[job.id], rounds[job.id])]


def _replay(job: Job, events: list[Event], rounds: dict[int, Round]) -> Iterator[str]:
    holder: int | None = None
    attempt, position = 0, -1
    for event in events:
        match event.type:
            case "job.running":
                if holder is not None or event.data["attempt"] != attempt + 1:
                    yield f"{job.id}: attempt {event.data['attempt']} began; before it came {attempt}, held by {holder}"
                holder = attempt = event.data["attempt"]
            case "job.pausing" | "job.canceling":
                if holder is None:
                    yield f"{job.id}: {event.type} with nobody to obey"
            case "round.stored":
                stored = rounds.get(event.data["position"])
                if stored is None or stored.position != position + 1:
                    yield f"{job.id}: after position {position} an event tells of {event.data['position']}"
                elif stored.attempt != holder:
                    yield f"{job.id}: position {stored.position} is attempt {stored.attempt}'s, {holder} held the job"
                position = event.data["position"]
            case type_ if type_.startswith("job.") and type_ != "job.determinism_changed":
                holder = None
    if sorted(rounds) != list(range(job.last_position + 1)) or position != job.last_position:
        yield f"{job.id}: last position {job.last_position}, stored {sorted(rounds)}, told up to {position}"
    if attempt != job.attempt:
        yield f"{job.id}: attempt {job.attempt}, told up to {attempt}"


def attempts_are_closed(evidence: Evidence) -> list[str]:
    """Each has an end and a reason, one after the other; an ended job is held by nobody."""
    wrong = []
    with evidence.database.reading() as session:
        attempts = defaultdict[str, list[Attempt]](list)
        for attempt in session.scalars(select(Attempt).order_by(Attempt.number)):
            attempts[attempt.job_id].append(attempt)
        for job in session.scalars(select(Job)):
            if job.lease_until is not None or job.worker is not None:
                wrong.append(f"{job.id}: {job.status}, and still held by {job.worker}")
            numbers = [attempt.number for attempt in attempts[job.id]]
            if numbers != list(range(1, job.attempt + 1)):
                wrong.append(f"{job.id}: attempt {job.attempt}, there are {numbers}")
            last = 0.0
            for attempt in attempts[job.id]:
                if attempt.ended_at is None or not attempt.reason:
                    wrong.append(f"{job.id}: attempt {attempt.number} never ended")
                elif not last <= attempt.started_at <= attempt.ended_at:
                    wrong.append(f"{job.id}: attempt {attempt.number} began before the one before it had ended")
                last = attempt.ended_at or last
    return wrong


def results_are_the_same(evidence: Evidence) -> list[str]:
    """To the bit, as of an undisturbed run of the same recipe; of canceled jobs what they had come to."""
    wrong = []
    with evidence.database.reading() as session:
        jobs = [job for job in session.scalars(select(Job)) if _recipe(evidence, job)]
    for job in jobs:
        expected, found = evidence.expected[_recipe(evidence, job)], digests_of(evidence.database, job.id)
        if job.status == JobStatus.SUCCEEDED:
            if found != expected:
                wrong.append(f"{job.id} ({_recipe(evidence, job)}): {len(set(found) ^ set(expected))} digests differ")
        elif job.id not in evidence.canceled:
            wrong.append(f"{job.id}: {job.status}, and nobody canceled it: {job.error}")
        elif job.status != JobStatus.CANCELED or not set(found) <= set(expected):
            wrong.append(f"{job.id}: canceled by its user, {job.status}, or what it had stored differs")
    return wrong


def rounds_are_whole(evidence: Evidence) -> list[str]:
    """Every entry has each of its files, every file its entry."""
    wrong = []
    with evidence.database.reading() as session:
        kinds = defaultdict[tuple[str, int], list[str]](list)
        for artifact in session.scalars(select(Artifact)):
            kinds[artifact.job_id, artifact.position].append(artifact.kind)
        entries = {(round_.job_id, round_.position) for round_ in session.scalars(select(Round))}
    wrong += [f"{job} {position}: files of no entry" for job, position in kinds.keys() - entries]
    for job, position in sorted(entries):
        if missing := set(SAME) - set(kinds[job, position]):
            wrong.append(f"{job} {position}: without {', '.join(sorted(missing))}")
    return wrong


def posts_are_stored_once(evidence: Evidence) -> list[str]:
    """Each acknowledged job bears the number of its own post; and, where the service promises it, no number comes
    twice, however often it was sent."""
    with evidence.database.reading() as session:
        stored = {
            row.id: row.options.get("metadata", {}).get("post") for row in session.execute(select(Job.id, Job.options))
        }
    wrong = [
        f"{job}: bears {stored.get(job)}, not {key}" for job, key in evidence.keys.items() if stored.get(job) != key
    ]
    if evidence.keys_count:
        wrong += [f"{key}: stored {n} times" for key, n in Counter(filter(None, stored.values())).items() if n > 1]
    return wrong


def nothing_was_refused(evidence: Evidence) -> list[str]:
    """A user hears an answer, or to come back later: no error of the service itself, no refusal of what is right."""
    return evidence.refused


def _recipe(evidence: Evidence, job: Job) -> str:
    """Of acknowledged jobs, and of those whose answer was lost."""
    return evidence.posted.get(job.id) or str(job.options.get("metadata", {}).get("recipe", ""))


def _events(session: Session) -> dict[str, list[Event]]:
    found = defaultdict[str, list[Event]](list)
    for event in session.scalars(select(Event).order_by(Event.job_id, Event.sequence)):
        found[event.job_id].append(event)
    return found
