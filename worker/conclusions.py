"""Which comparisons have ended, and whether what they recommend has passed: written once, and told to webhooks.

The process that ends a job does not look whether it was a comparison's last: of two last ones that end at once each
would see the other alive. Whoever sweeps looks at what is committed, under a lock on the comparison's row, so that one
sweeper concludes it and a retry at the same moment comes before it or undoes it (`store.reopening`).
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from pruning.recommending import findings
from store import comparisons
from store.comparisons import Whole
from store.tables import JobStatus


def conclude_comparisons(session: Session) -> int:
    """How many were found ended."""
    concluded = 0
    for whole in comparisons.read(session, comparisons.due(session)):
        passed = whole.status is JobStatus.SUCCEEDED and _has_passed(session, whole)
        concluded += comparisons.conclude(session, whole, passed)
    return concluded


def _has_passed(session: Session, whole: Whole) -> bool:
    """As the API says it of the same rounds."""
    comparison = whole.comparison
    measured = comparisons.measured(session, whole)
    return findings(measured, whole.names, comparison.seeds, comparison.goal, comparison.gates).passed
