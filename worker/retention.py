"""Which rounds of an ended job keep their artifacts."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from pruning.selection import RoundRecord, pareto_front
from store import jobs, retention
from store.tables import Job
from worker.adoption import record_of


def drop_artifacts(session: Session) -> int:
    """Of jobs that have expired, and of rounds that ended jobs do not keep. How many."""
    dropped = 0
    for job, has_expired in retention.due(session):
        if has_expired:
            dropped += retention.drop(session, job, None, "expired")
        else:
            records = [record_of(row) for row in jobs.stored_rounds(session, job.id)]
            kept = kept_positions(job, records)
            others = [record.position for record in records if record.position not in kept]
            dropped += retention.drop(session, job, others, f"keep_rounds: {job.keep_rounds}")
    return dropped


def kept_positions(job: Job, records: Sequence[RoundRecord]) -> set[int]:
    """`selected`: the selected round; `pareto`: those on the front, too. The final entry is no round and stays. A job
    that ended before it selected one keeps all that `selected` would choose from: its completed rounds are promised."""
    kept = {record.position for record in records if record.number is None}
    if job.keep_rounds == "pareto":
        kept |= pareto_front(records)
    elif job.keep_rounds == "all" or job.selected_position is None:
        kept |= {record.position for record in records}
    return kept if job.selected_position is None else kept | {job.selected_position}
