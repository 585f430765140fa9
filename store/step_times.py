"""How long training takes here, learnt from every round that is stored. None of these commits.

Written in the transaction of the round, from what its worker measured: a child's own words (seconds, steps) are bounded
by it, and spoil no more than the estimates of one architecture on one pool.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from store.database import now
from store.tables import Job, Model, StepTime

WEIGHT = 0.3
"""Of the newest measurement in the exponential mean."""
MAX_STEPS, MAX_MACS = 10**8, 10**15
REMEMBERED = 200
"""Rows of a pool that an estimate looks at, the newest."""


def architecture_of(report: Mapping[str, Any]) -> str:
    """Of a ready model: the same for networks that differ in their weights alone."""
    layers = [[layer["name"], layer.get("type"), layer["shape"]] for layer in report["layers"]]
    what = [report.get("input_shape"), report.get("num_parameters_total"), report.get("macs"), layers]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def record(session: Session, job: Job, report: Mapping[str, Any], spent_seconds: float, is_first: bool) -> None:
    """Of one entry. `spent_seconds`: since the last one was stored, or since the attempt began where `is_first`."""
    steps, seconds = report.get("steps"), {name: max(0.0, s) for name, s in report.get("seconds", {}).items()}
    trained = seconds.get("train", 0.0)
    controls = sum(s for name, s in seconds.items() if name not in ("prune", "train", "evaluate"))
    is_count = type(steps) is int and 0 < steps <= MAX_STEPS
    # Where training went on from a checkpoint, its seconds are those of several attempts.
    if not is_count or trained <= 0 or sum(seconds.values()) > spent_seconds:
        return
    architecture = _architecture(session, job)
    if architecture is None:
        return
    around = spent_seconds - trained - controls
    to_start = spent_seconds - sum(seconds.values()) if is_first else None
    per_entry = around - (to_start or 0.0)
    macs = counted.get("dense") if isinstance(counted := report.get("macs"), dict) else None
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    added = dialect.insert(StepTime).values(
        pool=job.pool,
        architecture=architecture,
        batch_size=job.recipe["training"]["batch_size"],
        macs=macs if type(macs) is int and 0 < macs <= MAX_MACS else None,
        seconds_per_step=trained / steps,
        seconds_per_entry=per_entry,
        seconds_to_start=to_start or 0.0,
        seconds_to_end=0.0,
        num_measured=1,
        measured_at=now(),
    )
    means = {"seconds_per_step": _mean(StepTime.seconds_per_step, trained / steps)}
    means |= {"seconds_per_entry": _mean(StepTime.seconds_per_entry, per_entry)}
    if to_start is not None:
        means |= {"seconds_to_start": _mean(StepTime.seconds_to_start, to_start)}
    session.execute(
        added.on_conflict_do_update(
            index_elements=[StepTime.pool, StepTime.architecture, StepTime.batch_size],
            set_={
                **means,
                "macs": added.excluded.macs,
                "num_measured": StepTime.num_measured + 1,
                "measured_at": now(),
            },
        )
    )


def record_end(session: Session, job: Job, seconds: float) -> None:
    """From the last entry to the end of the job."""
    architecture = _architecture(session, job)
    values = {"seconds_to_end": _mean(StepTime.seconds_to_end, max(0.0, seconds))}
    if may_end_early(job.recipe):
        last_position = session.execute(select(Job.last_position).where(Job.id == job.id)).scalar_one()
        made = (last_position + 1) / num_entries(job.recipe, job.planned_rounds)
        values["fraction_made"] = func.coalesce(_mean(StepTime.fraction_made, made), made)
    session.execute(
        update(StepTime)
        .where(
            StepTime.pool == job.pool,
            StepTime.architecture == architecture,
            StepTime.batch_size == job.recipe["training"]["batch_size"],
        )
        .values(**values)
        .execution_options(synchronize_session=False)
    )


def may_end_early(recipe: Mapping[str, Any]) -> bool:
    """By how the network turns out."""
    stop = recipe.get("stop", {})
    return stop.get("accuracy_floor") is not None or stop.get("patience") is not None


def num_entries(recipe: Mapping[str, Any], num_rounds: int) -> int:
    """Round 0, the numbered rounds, and the final entry where the recipe makes one."""
    finally_ = recipe.get("finally", {})
    has_final = finally_.get("weights", "none") != "none" or finally_.get("train", False)
    return num_rounds + 1 + int(has_final)


def of_pool(session: Session, pool: str) -> Sequence[StepTime]:
    newest = select(StepTime).where(StepTime.pool == pool).order_by(StepTime.measured_at.desc()).limit(REMEMBERED)
    return session.scalars(newest).all()


def find(session: Session, pool: str, architecture: str, batch_size: int) -> StepTime | None:
    return session.get(StepTime, (pool, architecture, batch_size))


def _mean(column: Any, value: float) -> Any:
    return column * (1 - WEIGHT) + value * WEIGHT


def _architecture(session: Session, job: Job) -> str | None:
    report = session.scalar(select(Model.report).where(Model.id == job.model_id))
    return None if report is None else architecture_of(report)
