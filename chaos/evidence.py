"""What is left after a run, to be judged: rows, files, processes, and what users were told meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import select

from store.database import Database
from store.tables import Artifact

Digests = list[tuple[int, str, str]]
"""(position, kind, digest)."""
Check = Callable[["Evidence"], list[str]]
"""What is wrong, a line each; none where its claim holds."""


@dataclass
class Evidence:
    """Taken when everything is finished and stopped: nobody writes while it is judged."""

    database: Database
    blob_dir: Path
    work_dir: Path
    posted: dict[str, str]
    """Job to recipe, as users were told."""
    expected: dict[str, Digests]
    """Recipe to what an undisturbed run of it stored."""
    canceled: set[str] = field(default_factory=set)
    """Jobs that a user asked to be canceled."""
    keys: dict[str, str] = field(default_factory=dict)
    """Job to Idempotency-Key, as sent."""
    keys_count: bool = False
    """Whether the service promises to store a post once for each Idempotency-Key."""
    uploaded: dict[str, str] = field(default_factory=dict)
    """Dataset to sha256, as users were told."""
    collected: int = 0
    """Copies that a last collection removed."""
    strays: list[str] = field(default_factory=list)
    """Processes that nobody answers for."""
    refused: list[str] = field(default_factory=list)
    """What a user heard that was neither an answer nor a plea to come back later."""


def digests_of(database: Database, job_id: str) -> Digests:
    """But for programs: torch marks each that it writes with a number of its own."""
    with database.reading() as session:
        found = select(Artifact.position, Artifact.kind, Artifact.blob_digest)
        rows = session.execute(found.where(Artifact.job_id == job_id, Artifact.kind.in_(SAME)))
        return sorted((position, kind, digest) for position, kind, digest in rows)


SAME = ("model", "masks", "ticket", "sparse")
"""Kinds of artifact that are promised equal to the bit."""
