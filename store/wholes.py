"""The status of a whole, from the statuses of its parts: one table of rules, pure."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from store.tables import JobStatus

S = JobStatus


class Parts(NamedTuple):
    """Of the jobs that are a comparison's parts now. A part that was deleted has no status."""

    statuses: frozenset[JobStatus]
    has_started: bool
    """Whether a worker ever had one of them."""
    is_missing_one: bool = False

    @property
    def live(self) -> frozenset[JobStatus]:
        return frozenset(status for status in self.statuses if not status.is_terminal)


RULES: tuple[tuple[Callable[[Parts], bool], JobStatus], ...] = (
    # All have ended: the worst of them tells.
    (lambda parts: not parts.live and S.FAILED in parts.statuses, S.FAILED),
    (lambda parts: not parts.live and (S.CANCELED in parts.statuses or parts.is_missing_one), S.CANCELED),
    (lambda parts: not parts.live, S.SUCCEEDED),
    # Some live: where all of those stop, the whole stops.
    (lambda parts: parts.live == {S.CANCELING}, S.CANCELING),
    (lambda parts: parts.live == {S.PAUSED}, S.PAUSED),
    (lambda parts: parts.live <= {S.PAUSING, S.PAUSED, S.CANCELING}, S.PAUSING),
    (lambda parts: parts.live <= {S.QUEUED, S.PAUSED} and not parts.has_started, S.QUEUED),
    (lambda parts: bool(parts.live), S.RUNNING),
)
"""The first that holds."""


def whole(parts: Parts) -> JobStatus:
    return next(status for holds, status in RULES if holds(parts))


def conclusion_of(status: JobStatus, conclusions: Collection[str | None], has_passed: bool) -> str | None:
    """Null while it lives. Of jobs that failed, one that ran out of time is told only where no other error is."""
    if status is S.SUCCEEDED:
        return "passed" if has_passed else "gate_failed"
    if status is S.CANCELED:
        return "canceled"
    if status is S.FAILED:
        return "error" if "error" in conclusions else "timed_out"
    return None
