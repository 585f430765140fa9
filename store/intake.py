"""Models and datasets: taken in as they come, validated by a worker, then ready or invalid for good."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from store import audit, leases
from store.blobs import StoredBlob, refer
from store.database import now
from store.ids import new_id
from store.leases import Fenced, holds
from store.tables import Dataset, IntakeStatus, Model

Row = TypeVar("Row", Model, Dataset)
Intake = Model | Dataset
MAX_FAILURES = 3


def add_model(
    session: Session, *, project_id: str, name: str, format: str, spec: dict[str, Any], blob: StoredBlob | None
) -> Model:
    """`blob` is None for a seeded architecture, whose weights validation makes. The caller commits, then rings."""
    if blob is not None:
        refer(session, blob)
    model = Model(
        id=new_id("mdl"),
        project_id=project_id,
        name=name,
        format=format,
        spec=spec,
        status=IntakeStatus.VALIDATING,
        blob_digest=blob and blob.digest,
        created_at=now(),
    )
    return _added(session, model, "model")


def add_dataset(session: Session, *, project_id: str, name: str, format: str, blob: StoredBlob) -> Dataset:
    refer(session, blob)
    dataset = Dataset(
        id=new_id("ds"),
        project_id=project_id,
        name=name,
        format=format,
        status=IntakeStatus.VALIDATING,
        blob_digest=blob.digest,
        created_at=now(),
    )
    return _added(session, dataset, "dataset")


def _added(session: Session, row: Row, kind: str) -> Row:
    session.add(row)
    session.flush()
    session.refresh(row)
    audit.record(session, f"{kind}.create", row.id)
    return row


def claim(session: Session, worker: str, lease_seconds: float) -> Intake | None:
    """The oldest model or dataset that waits for validation, or None. Any worker serves any: no pool."""
    entities: tuple[type[Intake], ...] = (Dataset, Model)
    for entity in entities:
        waiting = (entity.status == IntakeStatus.VALIDATING) & entity.lease_until.is_(None)
        oldest = select(entity.id).where(waiting).order_by(entity.id).limit(1).with_for_update(skip_locked=True)
        row_id = leases.claim(session, entity, waiting, oldest, worker, lease_seconds)
        if row_id is not None:
            return cast(Intake, session.get_one(entity, row_id))
    return None


def accept(
    session: Session,
    entity: type[Model] | type[Dataset],
    row_id: str,
    attempt: int,
    report: dict[str, Any],
    blob: StoredBlob | None = None,
) -> None:
    """Ready. `blob` holds weights that validation made. Raises Fenced."""
    made = {}
    if blob is not None:
        refer(session, blob)
        made = {"blob_digest": blob.digest}
    _settle(session, entity, row_id, attempt, status=IntakeStatus.READY, report=report, **made)


def refuse(
    session: Session, entity: type[Model] | type[Dataset], row_id: str, attempt: int, error: dict[str, Any]
) -> None:
    """Invalid, with the reason. Raises Fenced."""
    _settle(session, entity, row_id, attempt, status=IntakeStatus.INVALID, error=error)


def lose(session: Session, entity: type[Model] | type[Dataset], row_id: str, attempt: int, reason: str) -> None:
    """The child died or the lease ran out: waits again, or is invalid after MAX_FAILURES. Raises Fenced."""
    failures = session.execute(
        select(entity.failures).where(*holds(entity, row_id, attempt)).with_for_update()
    ).scalar()
    if failures is None:
        raise Fenced(row_id)
    if failures + 1 < MAX_FAILURES:
        _settle(session, entity, row_id, attempt, failures=failures + 1)
        return
    message = f"validation was cut off {failures + 1} times; the last: {reason}"
    error = {"code": "worker_lost", "message": message, "retryable": True}
    _settle(session, entity, row_id, attempt, status=IntakeStatus.INVALID, error=error, failures=failures + 1)


def release(session: Session, entity: type[Model] | type[Dataset], row_id: str, attempt: int) -> None:
    """The worker drains: no failure. Raises Fenced."""
    _settle(session, entity, row_id, attempt)


def _settle(session: Session, entity: type[Model] | type[Dataset], row_id: str, attempt: int, **values: Any) -> None:
    settled = session.execute(
        update(entity)
        .where(*holds(entity, row_id, attempt))
        .values(lease_until=None, worker=None, **values)
        .returning(entity.id)
        .execution_options(synchronize_session=False)
    ).scalar()
    if settled is None:
        raise Fenced(row_id)
