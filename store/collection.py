"""Content that nobody needs any more goes; content that is needed, or on its way in, stays. Any number may collect.

1. A row that nothing refers to, and that nobody came to refer to for an hour, is deleted, and in the same transaction
   its copy is written down as discarded.
2. The file or object of a discarded copy is removed, and then the note of it.
3. A copy that no row names and that is older than an hour (its writer was killed, or its transaction failed) is
   removed: some of the store's folders are looked through at each turn.

Why no content is lost. A reference is written in the transaction that touches the row under its lock (`refer`). A
collector that comes first deletes the row, and who refers makes a new one; one that comes second finds the row touched.
So step 1 never deletes what is, or is just being, referred to. Steps 2 and 3 remove copies by name, and a name is no
content: to upload the same again makes another copy of another name, which those steps do not know. What they remove no
row names when they look, and none ever will, because a copy is referred to within half an hour or not at all. So it
does not matter when they act on what they saw, how often, or how many of them there are: one that was stopped for a
week removes what is gone. Killed between two steps, it leaves a note for the next, or a copy for step 3.

Parts of uploads that are not whole yet lie among the copies, and go in steps 2 and 3 as they do.
"""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy import Column, delete, exists, or_, select
from sqlalchemy.orm import Session

from store.blobs import BlobStore, discard
from store.database import Database, now
from store.tables import Base, Blob, DiscardedCopy, Project, UploadPart

log = logging.getLogger(__name__)

SHARDS = [f"{number:02x}" for number in range(256)]
"""What digests begin with: one of them at each turn, so that no turn takes long in a store of millions."""
BATCH = 500


def references() -> list[Column[Any]]:
    """Every column that refers to a blob, of whatever table there is."""
    blobs = Blob.__table__
    return [
        key.parent for table in Base.metadata.sorted_tables for key in table.foreign_keys if key.column.table is blobs
    ]


def discard_unreferenced(session: Session, shard: str, grace_seconds: float) -> int:
    """Step 1. How many. Skips rows that are locked: who refers to one needs it."""
    free = [~exists().where(column == Blob.digest) for column in references()]
    found = select(Blob.digest).where(
        Blob.digest > shard,
        Blob.digest < f"{shard}g",  # any digest of the shard is less
        Blob.touched_at < now() - grace_seconds,
        *free,
    )
    digests = session.scalars(found.limit(BATCH).with_for_update(skip_locked=True)).all()
    names = session.scalars(delete(Blob).where(Blob.digest.in_(digests)).returning(Blob.name)).all()
    for name in names:
        discard(session, name)
    return len(names)


def discard_unless_referenced(session: Session, digest: str) -> None:
    """Step 1 for content that can be needed by nobody but who calls, and so at once.

    References are asked for when the row is locked, in a statement of its own: it sees those that were committed by
    whoever held the lock before. A row that is locked now is about to be referred to, or is another collector's.
    """
    locked = select(Blob.name).where(Blob.digest == digest).with_for_update(skip_locked=True)
    if (name := session.scalar(locked)) is None:
        return
    if session.scalar(select(or_(*(exists().where(column == digest) for column in references())))):
        return
    session.execute(delete(Blob).where(Blob.digest == digest).execution_options(synchronize_session=False))
    discard(session, name)


def remove_discarded(database: Database, blobs: BlobStore) -> int:
    """Step 2. How many. Removes before it writes: a disk that is full has room again then."""
    with database.reading() as session:
        names = session.scalars(select(DiscardedCopy.name).limit(BATCH)).all()
    for name in names:
        blobs.remove(name)
    if names:
        with database.transaction() as session:
            session.execute(delete(DiscardedCopy).where(DiscardedCopy.name.in_(names)))
    return len(names)


def remove_strays(database: Database, blobs: BlobStore, shard: str) -> int:
    """Step 3. How many."""
    old = blobs.old_names(shard, blobs.grace_seconds)
    if not old or not _is_ours(database, blobs):
        return 0
    removed = 0
    for some in (old[start : start + BATCH] for start in range(0, len(old), BATCH)):
        # A transaction that writes: on SQLite it waits for one that is about to name a copy, however long that took.
        with database.transaction() as session:
            named = {
                name
                for column in (Blob.name, UploadPart.name)
                for name in session.scalars(select(column).where(column.in_(some)))
            }
        strays = [name for name in some if name not in named]
        for name in strays:
            blobs.remove(name)
        removed += len(strays)
        if removed >= BATCH:  # the rest at the next turns
            break
    return removed


def _is_ours(database: Database, blobs: BlobStore) -> bool:
    """Whether this database is the store's own. Another one names none of its copies, and must not have them removed
    because somebody gave two services one bucket, or one of them a new database."""
    with database.reading() as session:
        project = session.scalar(select(Project.id).order_by(Project.id).limit(1))
        if project is None:
            return False
        owner = blobs.owner(project)
        is_ours = session.get(Project, owner) is not None
    if not is_ours:
        log.error("the blobs belong to another database, which has the project %s: none is removed", owner)
    return is_ours


def collect(database: Database, blobs: BlobStore, shard: str) -> int:
    """A turn; how many copies were removed."""
    removed = remove_discarded(database, blobs) + remove_strays(database, blobs, shard)
    with database.transaction() as session:
        found = discard_unreferenced(session, shard, blobs.grace_seconds)
    return removed + (remove_discarded(database, blobs) if found else 0)
