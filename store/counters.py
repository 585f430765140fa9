"""What has happened, in numbers that only rise: kept in the database, because those who count are many processes on
many machines, and whoever reads them is another.

A count is written by the transaction of what it counts: exact, never doubled, gone with a rollback. Every writer
updates the same few rows, so a transaction gathers what it counts and writes it as one statement, its last, in one
order: a row is locked for the moment of a commit, and two transactions never wait for each other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from store.tables import Counter

Name = Literal[
    "attempts_ended",
    "jobs_ended",
    "lease_losses",
    "rounds",
    "round_seconds",
    "rounds_adopted",
    "rounds_awaited",
    "round_disagreements",
    "webhook_attempts",
]

_COUNTED = "counted"

ENDS = frozenset(
    {
        "completed",
        "paused",
        "canceled",
        "given_back",
        "child_lost",
        "lease_lost",
        "deadline_exceeded",
        # What a child may say of a job that fails.
        "invalid_content",
        "recipe_refused",
        "dataset_mismatch",
        "disconnected",
        "diverged",
        "out_of_memory",
        "nondeterministic_operator",
        "extra_missing",
    }
)
"""Why an attempt ended, in codes. A child's own words could be anything, and each would be a series for ever: what is
not among these is `failed`."""

PHASES = ("prune", "train", "evaluate")


def count(session: Session, name: Name, amount: float = 1.0, **labels: str) -> None:
    """Add to a counter when this transaction (`Database.transaction`) commits."""
    counted: dict[tuple[str, str], float] = session.info.setdefault(_COUNTED, {})
    key = (name, json.dumps(labels, sort_keys=True))
    counted[key] = counted.get(key, 0.0) + amount


def count_end(session: Session, code: str) -> None:
    count(session, "attempts_ended", reason=code if code in ENDS else "failed")


def count_round(session: Session, pool: str, seconds: Mapping[str, float], at_most: float) -> None:
    """`seconds` are a child's own words: no phase took longer than `at_most`, which its worker has measured."""
    count(session, "rounds", pool=pool)
    for phase in PHASES:
        count(session, "round_seconds", min(max(seconds.get(phase, 0.0), 0.0), at_most), pool=pool, phase=phase)


def write(session: Session) -> None:
    """For `Database.transaction`, at its end."""
    counted: dict[tuple[str, str], float] = session.info.pop(_COUNTED, {})
    if not counted:
        return
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    rows = [{"name": name, "labels": labels, "value": counted[name, labels]} for name, labels in sorted(counted)]
    added = dialect.insert(Counter).values(rows)
    session.execute(
        added.on_conflict_do_update(
            index_elements=[Counter.name, Counter.labels], set_={"value": Counter.value + added.excluded.value}
        )
    )


@dataclass(frozen=True)
class Counted:
    name: str
    labels: dict[str, str]
    value: float


def read(session: Session) -> list[Counted]:
    rows = session.execute(select(Counter.name, Counter.labels, Counter.value).order_by(Counter.name, Counter.labels))
    return [Counted(row.name, json.loads(row.labels), row.value) for row in rows]
