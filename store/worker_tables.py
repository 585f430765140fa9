"""The tables of who works, what is counted, and how long things take. `store.tables` has these, too."""

from __future__ import annotations

from typing import Any

from sqlalchemy import PrimaryKeyConstraint, String
from sqlalchemy.orm import Mapped, mapped_column

from store.schema import Base


class Worker(Base):
    """A worker process, as it announced itself: `store.workers`."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    """The name that it writes into the rows it holds: hostname:pid."""
    pool: Mapped[str] = mapped_column(String(60))
    device: Mapped[str] = mapped_column(String(20))
    """cpu or cuda."""
    slots: Mapped[int]
    """Jobs at a time."""
    hostname: Mapped[str] = mapped_column(String(200))
    version: Mapped[str] = mapped_column(String(40))
    started_at: Mapped[float]
    seen_at: Mapped[float]
    """Its last heartbeat."""
    state: Mapped[str] = mapped_column(String(20))
    """ready, draining or stopped."""
    extras: Mapped[list[Any] | None] = mapped_column(default=None)
    """What it has installed that others may not have; null: of a version that did not say."""


class Counter(Base):
    """A number that only rises, written in the transaction of what it counts: `store.counters`."""

    __tablename__ = "counters"
    __table_args__ = (PrimaryKeyConstraint("name", "labels"),)

    name: Mapped[str] = mapped_column(String(60))
    labels: Mapped[str] = mapped_column(String(300))
    """JSON object of strings, keys sorted: part of the key, and so text."""
    value: Mapped[float]


class StepTime(Base):
    """How long a network takes to train on a pool, as finished rounds have shown: `store.step_times`."""

    __tablename__ = "step_times"
    __table_args__ = (PrimaryKeyConstraint("pool", "architecture", "batch_size"),)

    pool: Mapped[str] = mapped_column(String(60))
    architecture: Mapped[str] = mapped_column(String(64))
    """sha256 of its layers: networks that differ in their weights alone are one."""
    batch_size: Mapped[int]
    macs: Mapped[int | None] = mapped_column(default=None)
    """Of one example through the dense network."""
    seconds_per_step: Mapped[float]
    """An exponential mean, as the next three."""
    seconds_per_entry: Mapped[float]
    """Of an entry, beside its steps: pruning, evaluating, storing."""
    seconds_to_start: Mapped[float]
    """Of an attempt, before its first entry begins."""
    seconds_to_end: Mapped[float] = mapped_column(default=0.0)
    """Of a job, behind its last entry: its exports."""
    fraction_made: Mapped[float | None] = mapped_column(default=None)
    """Of the planned entries, by jobs that a floor or patience may end before; null: there was none yet."""
    num_measured: Mapped[int]
    """Entries."""
    measured_at: Mapped[float]
