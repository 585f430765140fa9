"""The table of comparisons; `store.tables` has it, too."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from store.schema import Base

_OPEN = text("concluded_at IS NULL")
"""Few among all that ever were: a small index, which is all that a sweep reads."""


class Comparison(Base):
    """Several recipes and seeds on one model and dataset. Its parts are jobs (`Job.comparison_id`), its status is
    derived from theirs (`store.comparisons`), and its end is written once all of them have ended."""

    __tablename__ = "comparisons"
    __table_args__ = (
        Index(None, "project_id", "id"),
        Index("ix_comparisons_open", "id", sqlite_where=_OPEN, postgresql_where=_OPEN),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    model_id: Mapped[str] = mapped_column(String(40))
    """No foreign key: its jobs have one, and with them the model may go."""
    dataset_id: Mapped[str] = mapped_column(String(40))
    recipes: Mapped[list[Any]]
    """{name, recipe}: in full but for the seed; a job names its own by the index (`Job.comparison_recipe`)."""
    seeds: Mapped[list[Any]]
    goal: Mapped[dict[str, Any]]
    """A `pruning.recommending.Goal`."""
    gates: Mapped[list[Any]]
    """Of the recommendation."""
    asked: Mapped[dict[str, Any]]
    """budget, controls and metadata as given, to be shown."""
    version: Mapped[int] = mapped_column(default=1)
    """Rises where a change is seen in none of its jobs: its end, and a part that was made again or deleted."""
    conclusion: Mapped[str | None] = mapped_column(String(20), default=None)
    """passed, gate_failed, error, canceled or timed_out; null until it is concluded."""
    concluded_at: Mapped[float | None] = mapped_column(default=None)
    """When a sweeper found all parts ended, and told so; null again where one is retried."""
    created_at: Mapped[float]
