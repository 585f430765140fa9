"""Resumable uploads: whose turn it is, what counts, and when all of it is there. None of these commits.

A request that brings content, asks for the offset, or deletes, raises the upload's `turn`: from then on what earlier
requests bring counts no more, so an offset that was told stays right until the client itself goes on. Every change is
guarded by the turn, and zero rows mean that a later request has it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, func, or_, select, update
from sqlalchemy.orm import Session

from store.blobs import StoredBlob, Vanishing, discard, refer
from store.database import moment, now
from store.ids import new_id
from store.parts import Part
from store.tables import Artifact, Blob, Dataset, Model, Project, Upload, UploadPart

MAX_PARTS = 10_000
BATCH = 100


class Superseded(Exception):
    """A later request has the turn, or the upload is gone: what this one brings counts no more."""


class TooMany(Exception):
    """Uploads that are open, of the project; or parts, of the upload."""


@dataclass(frozen=True)
class Turn:
    """What a request may count on as long as no other one raises it."""

    upload_id: str
    number: int
    offset_bytes: int
    length_bytes: int | None
    expected_digest: str | None
    last: Part | None


def create(
    session: Session,
    project_id: str,
    *,
    length_bytes: int | None,
    expected_digest: str | None,
    max_open: int,
    expiry_seconds: float,
) -> Upload:
    """Raises TooMany. The project's lock closes the race of two that both see one place left."""
    session.execute(select(Project.id).where(Project.id == project_id).with_for_update(key_share=True))
    is_open = (Upload.project_id == project_id) & Upload.blob_digest.is_(None) & (Upload.expires_at > now())
    if session.scalars(select(func.count()).select_from(Upload).where(is_open)).one() >= max_open:
        raise TooMany(project_id)
    return _added(session, project_id, length_bytes, expected_digest, expiry_seconds)


def create_known(
    session: Session, project_id: str, *, digest: str, length_bytes: int, expiry_seconds: float
) -> Upload | None:
    """A complete one, where **this project** has the content; what others have is nobody's to learn. The blob's lock
    keeps it from the collector until this transaction ends."""
    is_theirs = or_(
        *(
            exists().where(entity.project_id == project_id, entity.blob_digest == digest)
            for entity in (Model, Dataset, Artifact, Upload)
        )
    )
    blob = session.scalar(
        select(Blob)
        .where(Blob.digest == digest, Blob.size_bytes == length_bytes, Blob.suspect.is_(False), is_theirs)
        .with_for_update()
    )
    if blob is None:
        return None
    refer(session, StoredBlob(digest, length_bytes, blob.name))
    return _added(session, project_id, length_bytes, digest, expiry_seconds, blob_digest=digest)


def _added(
    session: Session,
    project_id: str,
    length_bytes: int | None,
    expected_digest: str | None,
    expiry_seconds: float,
    blob_digest: str | None = None,
) -> Upload:
    upload = Upload(
        id=new_id("upl"),
        project_id=project_id,
        length_bytes=length_bytes,
        offset_bytes=length_bytes if blob_digest and length_bytes else 0,
        turn=0,
        expected_digest=expected_digest,
        blob_digest=blob_digest,
        created_at=now(),
        expires_at=now() + expiry_seconds,
    )
    session.add(upload)
    session.flush()
    session.refresh(upload)
    return upload


def one(session: Session, project_id: str, upload_id: str, hold: bool = False) -> Upload | None:
    """`hold`: it stays until the transaction ends, and its content with it."""
    wanted = select(Upload).where(Upload.id == upload_id, Upload.project_id == project_id, Upload.expires_at > now())
    if hold:
        wanted = wanted.with_for_update(read=True, key_share=True)
    return session.scalar(wanted)


def take_turn(session: Session, upload_id: str, expiry_seconds: float) -> Turn:
    """From here on no other request's content counts. Raises Superseded (it is complete, or gone), TooMany."""
    row = session.execute(
        update(Upload)
        .where(Upload.id == upload_id, Upload.blob_digest.is_(None))
        .values(turn=Upload.turn + 1, expires_at=now() + expiry_seconds)
        .returning(Upload.turn, Upload.offset_bytes, Upload.length_bytes, Upload.expected_digest)
        .execution_options(synchronize_session=False)
    ).first()
    if row is None:
        raise Superseded(upload_id)
    found = parts(session, upload_id, latest_alone=True)
    if (
        found
        and session.scalars(select(func.count()).select_from(UploadPart).where(UploadPart.upload_id == upload_id)).one()
        >= MAX_PARTS
    ):
        raise TooMany(upload_id)
    last = found[0] if found else None
    return Turn(upload_id, row.turn, row.offset_bytes, row.length_bytes, row.expected_digest, last)


def has_turn(session: Session, turn: Turn) -> bool:
    return session.scalar(select(Upload.id).where(*_guard(turn))) is not None


def count(session: Session, turn: Turn, part: Part, expiry_seconds: float) -> None:
    """The part counts, to its end. Raises Superseded, Vanishing."""
    if part.refer_by is not None and time.time() > part.refer_by:
        raise Vanishing(part.name)
    _change(session, turn, offset_bytes=part.stop_bytes, expires_at=now() + expiry_seconds)
    grown = session.scalar(
        update(UploadPart)
        .where(UploadPart.name == part.name)
        .values(size_bytes=part.size_bytes)
        .returning(UploadPart.name)
        .execution_options(synchronize_session=False)
    )
    if grown is None:
        session.add(
            UploadPart(
                name=part.name,
                upload_id=turn.upload_id,
                start_bytes=part.start_bytes,
                size_bytes=part.size_bytes,
            )
        )
        session.flush()


def close(session: Session, turn: Turn, length_bytes: int) -> list[Part]:
    """No byte counts after this one: the length is said. What the whole consists of. Raises Superseded."""
    _change(session, turn, length_bytes=length_bytes)
    return parts(session, turn.upload_id)


def say_length(session: Session, turn: Turn, length_bytes: int) -> None:
    """Raises Superseded."""
    _change(session, turn, length_bytes=length_bytes)


def complete(session: Session, upload_id: str, blob: StoredBlob, expiry_seconds: float) -> None:
    """Of a closed one. Not guarded by the turn: who asks for the offset meanwhile changes nothing, and of two that put
    the same whole together the first counts and the second finds it done. Raises Superseded where it is gone, and
    Vanishing."""
    _lock(session, [upload_id])
    refer(session, blob)
    done = session.scalar(
        update(Upload)
        .where(Upload.id == upload_id, Upload.offset_bytes == Upload.length_bytes)
        .values(blob_digest=blob.digest, expires_at=now() + expiry_seconds)
        .returning(Upload.id)
        .execution_options(synchronize_session=False)
    )
    if done is None:
        raise Superseded(upload_id)
    _discard_parts(session, [upload_id])


def is_complete(session: Session, upload_id: str) -> bool:
    return session.scalar(select(Upload.id).where(Upload.id == upload_id, Upload.blob_digest.is_not(None))) is not None


def drop(session: Session, *upload_ids: str) -> int:
    """With all that came in; a blob that it became is the collector's, unless something else refers to it. How many."""
    _lock(session, upload_ids)
    _discard_parts(session, upload_ids)
    gone = session.scalars(delete(Upload).where(Upload.id.in_(upload_ids)).returning(Upload.id))
    return len(gone.all())


def expire(session: Session) -> int:
    """Those that nobody touched for too long. How many."""
    late = select(Upload.id).where(Upload.expires_at < moment()).limit(BATCH).with_for_update(skip_locked=True)
    found = session.scalars(late).all()
    return drop(session, *found) if found else 0


def parts(session: Session, upload_id: str, latest_alone: bool = False) -> list[Part]:
    order = UploadPart.start_bytes.desc() if latest_alone else UploadPart.start_bytes
    wanted = select(UploadPart).where(UploadPart.upload_id == upload_id).order_by(order)
    rows = session.scalars(wanted.limit(1) if latest_alone else wanted)
    return [Part(row.name, row.start_bytes, row.size_bytes) for row in rows]


def _lock(session: Session, upload_ids: Sequence[str]) -> None:
    """Before their parts are looked at: whoever counts one changes the upload first, and waits here."""
    session.execute(select(Upload.id).where(Upload.id.in_(upload_ids)).order_by(Upload.id).with_for_update())


def _discard_parts(session: Session, upload_ids: Sequence[str]) -> None:
    names = delete(UploadPart).where(UploadPart.upload_id.in_(upload_ids)).returning(UploadPart.name)
    for name in session.scalars(names).all():
        discard(session, name)


def _guard(turn: Turn) -> list[ColumnElement[bool]]:
    return [Upload.id == turn.upload_id, Upload.turn == turn.number, Upload.blob_digest.is_(None)]


def _change(session: Session, turn: Turn, **values: Any) -> None:
    changed = session.scalar(
        update(Upload)
        .where(*_guard(turn))
        .values(**values)
        .returning(Upload.id)
        .execution_options(synchronize_session=False)
    )
    if changed is None:
        raise Superseded(turn.upload_id)
