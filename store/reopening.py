"""A comparison that was concluded lives again: another job takes a part's place, or a part is gone. Never commits."""

from __future__ import annotations

from sqlalchemy import update
from sqlalchemy.orm import Session

from store.tables import Comparison


def reopen(session: Session, comparison_id: str | None) -> None:
    """Of a job that may be no part of any. What was concluded holds no longer; a sweeper concludes it anew.

    The update waits for a sweeper that concludes at this moment (`comparisons.due` has the row locked) and undoes it.
    """
    if comparison_id is not None:
        session.execute(
            update(Comparison)
            .where(Comparison.id == comparison_id)
            .values(version=Comparison.version + 1, conclusion=None, concluded_at=None)
            .execution_options(synchronize_session=False)
        )
