"""What a run came to, as a table and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import func, select

from chaos.evidence import Evidence
from chaos.load import Load
from store import sweeps
from store.tables import Attempt, Job, Round


@dataclass
class Figures:
    struck: dict[str, int]
    missed: dict[str, int]
    """Faults that found nothing to strike; another one followed."""
    jobs: dict[str, int]
    """By status."""
    attempts: int
    rounds: int
    lease_losses: int
    """Attempts whose lease ran out."""
    uploads: int
    posted_twice: int
    """Jobs that came of a post whose answer was lost and that was sent again."""
    users: dict[str, int]
    """What users met: refusals by status, requests without an answer."""
    checks: dict[str, list[str]]
    collected: int
    """Copies without use that a last collection removed, when all was over."""
    database: str = ""
    seed: int = 0
    drain_seconds: float = 0.0
    seconds: float = 0.0
    skipped: list[str] = field(default_factory=list)
    kept: str | None = None
    """Where logs and data of a run lie that went wrong."""

    @property
    def violations(self) -> int:
        return sum(map(len, self.checks.values()))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> Iterator[str]:
        yield f"{self.database}, seed {self.seed}: {sum(self.struck.values())} faults in {self.seconds:.0f} s"
        for kind, number in sorted(self.struck.items()):
            yield f"  {number:5d}  {kind}"
        yield from (f"         skipped: {reason}" for reason in self.skipped)
        by_status = ", ".join(f"{number} {status}" for status, number in sorted(self.jobs.items()))
        yield f"  {sum(self.jobs.values()):5d}  jobs: {by_status}"
        yield f"  {self.attempts:5d}  attempts, {self.lease_losses} of which lost their lease"
        yield f"  {self.rounds:5d}  rounds stored"
        yield f"  {self.uploads:5d}  uploads beside them"
        yield f"  {self.posted_twice:5d}  jobs posted twice, the first answer lost"
        yield f"  {self.collected:5d}  copies without use removed by a last collection"
        yield f"         users met: {', '.join(f'{what} ({n})' for what, n in sorted(self.users.items())) or 'nothing'}"
        yield f"         the last jobs ended {self.drain_seconds:.0f} s after the last fault"
        for claim, wrong in self.checks.items():
            yield f"  {'FAILED' if wrong else 'ok':>6} {claim}"
            yield from (f"           {line}" for line in wrong[:20])
        if self.kept:
            yield f"  logs and data are kept in {self.kept}"


def count(
    evidence: Evidence, load: Load, struck: Counter[str], missed: Counter[str], checks: dict[str, list[str]]
) -> Figures:
    with evidence.database.reading() as session:
        jobs = Counter(session.scalars(select(Job.status)))
        reasons = list(session.scalars(select(Attempt.reason)))
        rounds = session.scalar(select(func.count()).select_from(Round)) or 0
        posts = Counter(o.get("metadata", {}).get("post") for o in session.scalars(select(Job.options)))
    return Figures(
        dict(struck),
        dict(missed),
        dict(jobs),
        attempts=len(reasons),
        rounds=rounds,
        lease_losses=reasons.count(sweeps.LOST),
        uploads=len(evidence.uploaded),
        posted_twice=sum(number - 1 for number in posts.values()),
        users=dict(load.figures),
        checks=checks,
        collected=evidence.collected,
    )
