"""`python -m embedded.backup FOLDER`: the data directory as it was at one moment, while the service goes on.

A backup holds `espalier.db`, `blobs/`, `secret_key` where the data directory has one, and `backup.json`. It is written
beside its place, checked, and renamed: a folder of that name is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import sqlite3
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    column,
    delete,
    inspect,
    make_url,
    select,
    table,
    text,
    union,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from store.blobs import BlobStore, StoredBlob, open_blobs
from store.database import LOCK_SECONDS, Database, now
from store.settings import Settings
from store.tables import Blob, Checkpoint

DATABASE, BLOBS, SECRET, MANIFEST = "espalier.db", "blobs", "secret_key", "backup.json"


class BackupError(Exception):
    """The message says why, and what to do."""


def database_path(settings: Settings) -> Path:
    """Raises BackupError where rows or blobs are kept by other servers, whose own backups are better."""
    url = make_url(settings.database)
    if url.get_backend_name() != "sqlite" or not url.database:
        raise BackupError("the rows are in PostgreSQL: use pg_dump; docs/deploy.md tells the order")
    if settings.blob_bucket is not None:
        raise BackupError("the blobs are in a bucket: docs/deploy.md tells how that is backed up")
    return Path(url.database)


def back_up(settings: Settings, target: Path) -> dict[str, Any]:
    """What `backup.json` says. Raises BackupError; nothing of the backup is left then."""
    source = database_path(settings)
    if not source.exists():
        raise BackupError(f"{source} is not there; is ESPALIER_DATA_DIR the service's?")
    _refuse_existing(target)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    database = Database(settings.database)
    try:
        partial.mkdir(mode=0o700)  # it holds what the service keeps secret
        # First of all: what is referred to now, and no more when it is copied, is not collected meanwhile. What comes
        # to be referred to between this and the snapshot is touched by whoever refers to it.
        _touch(database, Blob.digest.in_(_referenced(database)))
        _snapshot(source, partial / DATABASE)
        _copy_blobs(database, open_blobs(settings), partial)
        _copy_secret(settings.data_dir / SECRET, partial / SECRET)
        manifest = {"created_at": datetime.now(UTC).isoformat(), **check(partial / DATABASE, partial)}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        for path in [*partial.rglob("*"), partial]:
            sync(path)
        _refuse_existing(target)
        partial.rename(target)
        sync(target.parent)
    except (OSError, sqlite3.Error, SQLAlchemyError) as error:
        raise BackupError(f"{type(error).__name__}: {error}") from error
    finally:
        database.close()
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def check(path: Path, folder: Path) -> dict[str, Any]:
    """Of a database and the backup that holds its blobs: schema's revision, number and bytes of the blobs. Raises
    BackupError where one of them is not whole."""
    database = Database(f"sqlite:///{path}")
    try:
        with database.reading() as session:
            faults = [str(row[0]) for row in session.execute(text("PRAGMA integrity_check")) if row[0] != "ok"]
            broken = session.execute(text("PRAGMA foreign_key_check"))
            faults += [f"a row of {row[0]} refers to none of {row[2]}" for row in broken]
            revision = session.scalar(text("SELECT version_num FROM alembic_version"))
        if faults:
            raise BackupError(f"the database of {folder} is damaged: {faults[0]} (and {len(faults) - 1} more)")
        sizes = sizes_of(database)
    finally:
        database.close()
    for digest, size_bytes in sizes.items():
        blob = blob_path(folder, digest)
        if not blob.is_file() or blob.stat().st_size != size_bytes or _digest(blob) != digest:
            raise BackupError(f"blob {digest} of {folder} is missing or damaged")
    return {"revision": revision, "num_blobs": len(sizes), "blob_bytes": sum(sizes.values())}


def sizes_of(database: Database) -> dict[str, int]:
    """By digest."""
    with database.reading() as session:
        return dict(session.execute(select(Blob.digest, Blob.size_bytes).order_by(Blob.digest)).all())


def blob_path(folder: Path, digest: str) -> Path:
    """In a backup."""
    return folder / BLOBS / digest[:2] / digest


def _refuse_existing(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise BackupError(f"{target} exists; name a folder that does not")


def _referenced(database: Database) -> CompoundSelect[Any]:
    """The digests that rows refer to, by the database's own word: it may be of an earlier schema."""
    found = inspect(database.engine)
    columns = [
        (name, key["constrained_columns"][0])
        for name in found.get_table_names()
        for key in found.get_foreign_keys(name)
        if key["referred_table"] == Blob.__tablename__
    ]
    return union(*(select(column(c)).select_from(table(name)).where(column(c).is_not(None)) for name, c in columns))


def _touch(database: Database, which: ColumnElement[bool]) -> None:
    with database.transaction() as session:
        session.execute(update(Blob).where(which).values(touched_at=now()).execution_options(synchronize_session=False))


def _snapshot(source: Path, target: Path) -> None:
    """Of one moment, beside any reader and writer."""
    with contextlib.closing(sqlite3.connect(source, timeout=LOCK_SECONDS, isolation_level=None)) as connection:
        connection.execute("VACUUM INTO ?", (str(target),))
    target.chmod(0o600)


def _copy_blobs(database: Database, blobs: BlobStore, folder: Path) -> None:
    """Those that the snapshot refers to, and it forgets all others. Hard links where they reach: content never
    changes. No checkpoints: the service discards them while they are copied."""
    snapshot = Database(f"sqlite:///{folder / DATABASE}")
    try:
        others = Blob.digest.not_in(_referenced(snapshot))
        with snapshot.transaction() as session:
            if inspect(session.connection()).has_table(Checkpoint.__tablename__):
                session.execute(delete(Checkpoint))
            session.execute(delete(Blob).where(others).execution_options(synchronize_session=False))
        with snapshot.reading() as session:
            rows = session.execute(select(Blob.digest, Blob.size_bytes, Blob.name).order_by(Blob.digest)).all()
    finally:
        snapshot.close()
    touched_at = time.monotonic()
    for number, (digest, size_bytes, name) in enumerate(rows):
        if time.monotonic() - touched_at > blobs.grace_seconds / 6:
            for left in _in_chunks([row.digest for row in rows[number:]]):
                _touch(database, Blob.digest.in_(left))
            touched_at = time.monotonic()
        place = blob_path(folder, digest)
        place.parent.mkdir(parents=True, exist_ok=True)
        blobs.fetch(StoredBlob(digest, size_bytes, name), place)


def _in_chunks(digests: Sequence[str]) -> list[Sequence[str]]:
    """SQLite takes so many parameters in a statement."""
    return [digests[start : start + 1000] for start in range(0, len(digests), 1000)]


def _copy_secret(source: Path, target: Path) -> None:
    if source.exists():
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as copy:
            copy.write(source.read_bytes())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """A file or a folder survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def main() -> None:
    if len(sys.argv) != 2 or not sys.argv[1]:
        raise SystemExit("python -m embedded.backup FOLDER (which does not exist yet)")
    try:
        made = back_up(Settings(), Path(sys.argv[1]).absolute())
    except BackupError as error:
        raise SystemExit(f"no backup: {error}") from error
    print(f"{sys.argv[1]}: {made['num_blobs']} blobs, {made['blob_bytes']} bytes, schema {made['revision']}; checked")


if __name__ == "__main__":
    main()
