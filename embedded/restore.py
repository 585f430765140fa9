"""`python -m embedded.restore FOLDER`: a backup becomes the data directory, which must be empty.

The service is started then. What a worker held when the backup was made waits again, and goes on from what was stored.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from alembic.util import CommandError
from sqlalchemy import delete, select, update
from sqlalchemy.exc import SQLAlchemyError

import migrations
from embedded.backup import DATABASE, SECRET, BackupError, blob_path, check, database_path, sizes_of, sync
from embedded.serve import LOCK, ServiceError, lock
from store import intake, jobs, uploads
from store.blobs import BlobStore, open_blobs
from store.database import Database
from store.settings import Settings
from store.tables import Blob, Dataset, DiscardedCopy, Job, Model, Upload
from store.transitions import Trigger

REASON = "the service was restored from a backup"


def restore(settings: Settings, backup: Path) -> None:
    """Raises BackupError; the data directory is as empty as before then."""
    target = database_path(settings)
    if not (backup / DATABASE).is_file():
        raise BackupError(f"{backup} holds no {DATABASE}; name a folder that a backup made")
    _refuse_used(settings, target)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    try:
        held = lock(settings.data_dir)
    except ServiceError as error:
        raise BackupError(str(error)) from error
    with held:
        _refuse_used(settings, target)  # a service may have come and gone since
        try:
            _copy(settings, backup, target)
        except BaseException as error:
            partials = target.parent.glob(f"{target.name}.partial*")
            for path in (target, *partials, settings.blob_dir, *settings.data_dir.iterdir()):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            if isinstance(error, (OSError, SQLAlchemyError, CommandError)):  # the last: of a schema not known here
                raise BackupError(f"{type(error).__name__}: {error}") from error
            raise


def _refuse_used(settings: Settings, target: Path) -> None:
    places = [folder for folder in (settings.data_dir, settings.blob_dir) if folder.exists()]
    if target.exists() or any(path.name != LOCK for folder in places for path in folder.iterdir()):
        raise BackupError(f"{settings.data_dir} is not empty; set ESPALIER_DATA_DIR to a folder that is")


def _copy(settings: Settings, backup: Path, target: Path) -> None:
    """The database comes last: without it nothing is served, and another restore is refused."""
    shutil.copyfile(backup / DATABASE, partial := target.with_name(f"{target.name}.partial"))
    partial.chmod(0o600)
    check(partial, backup)  # the copy: a backup may lie where nothing can be written
    url = f"sqlite:///{partial}"
    migrations.upgrade(url)
    database = Database(url)
    _copy_blobs(database, open_blobs(settings), backup)
    _give_back(database)
    database.close()
    if (backup / SECRET).exists():
        (settings.data_dir / SECRET).touch(mode=0o600)
        (settings.data_dir / SECRET).write_bytes((backup / SECRET).read_bytes())
    sync(partial)
    partial.rename(target)
    sync(target.parent)
    sync(settings.data_dir)


def _copy_blobs(database: Database, blobs: BlobStore, backup: Path) -> None:
    """Through the store, which digests what comes in and syncs it; never a link, so that a backup stays whole whatever
    happens to the data directory."""
    names = {}
    for digest, size_bytes in sizes_of(database).items():
        with blob_path(backup, digest).open("rb") as file:
            stored = blobs.put_file(file, size_bytes)
        if stored.digest != digest:
            raise BackupError(f"blob {digest} of {backup} is damaged")
        names[digest] = stored.name
    with database.transaction() as session:
        for digest, name in names.items():
            session.execute(update(Blob).where(Blob.digest == digest).values(name=name, suspect=False))
        # What lies in the other store alone: of uploads that were not whole, no byte is here. Their clients begin anew.
        incomplete = session.scalars(select(Upload.id).where(Upload.blob_digest.is_(None))).all()
        if incomplete:
            uploads.drop(session, *incomplete)
        session.execute(delete(DiscardedCopy))


def _give_back(database: Database) -> None:
    """Rows that workers of another time held. No failure of theirs."""
    with database.transaction() as session:
        for job in session.scalars(select(Job).where(Job.lease_until.is_not(None))).all():
            jobs.give_back(session, job.id, job.attempt, Trigger.DRAIN, REASON)
        for model in session.scalars(select(Model).where(Model.lease_until.is_not(None))).all():
            intake.release(session, Model, model.id, model.attempt)
        for dataset in session.scalars(select(Dataset).where(Dataset.lease_until.is_not(None))).all():
            intake.release(session, Dataset, dataset.id, dataset.attempt)


def main() -> None:
    if len(sys.argv) != 2 or not sys.argv[1]:
        raise SystemExit("python -m embedded.restore FOLDER (which a backup made)")
    settings = Settings()
    try:
        restore(settings, Path(sys.argv[1]).absolute())
    except BackupError as error:
        raise SystemExit(f"nothing was restored: {error}") from error
    print(f"{settings.data_dir} is restored; start the service")


if __name__ == "__main__":
    main()
