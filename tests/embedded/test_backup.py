"""A backup is whole or not there, and so is what is restored from it. (While the service runs: tests/end_to_end.)"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from embedded.backup import BackupError, back_up, blob_path
from embedded.restore import REASON, restore
from embedded.serve import lock
from store import checkpoints, intake, jobs, uploads
from store.blobs import BlobStore, StoredBlob, located, open_blobs, refer
from store.database import Database
from store.parts import Part
from store.settings import Settings
from store.tables import Attempt, Blob, DiscardedCopy, Job, Model, Upload, UploadPart

pytestmark = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"database_url": None})


@pytest.fixture
def elsewhere(settings: Settings, tmp_path: Path) -> Settings:
    """Of an empty data directory."""
    return settings.model_copy(update={"data_dir": tmp_path / "restored"})


class Kept:
    """A running job with a stored round, one artifact of which is its own; a model that is being validated; a blob
    that nothing refers to."""

    def __init__(self, database: Database, blobs: BlobStore, project: str) -> None:
        self.database = database
        self.given, self.artifact, self.nobodys = (blobs.put([c], 100) for c in (b"given", b"artifact", b"nobody's"))
        with database.transaction() as session:
            refer(session, self.nobodys)
            model = intake.add_model(
                session, project_id=project, name="m", format="safetensors", spec={}, blob=self.given
            )
            dataset = intake.add_dataset(session, project_id=project, name="d", format="npz", blob=self.given)
            model.status = dataset.status = "ready"
            asked: dict[str, Any] = {"recipe": {}, "gates": [], "select": "best", "artifacts": [], "options": {}}
            references = {"project_id": project, "model_id": model.id, "dataset_id": dataset.id}
            self.job = jobs.submit(session, pool="cpu", planned_rounds=1, max_failures=1, **references, **asked)
            other = intake.add_model(
                session, project_id=project, name="n", format="safetensors", spec={}, blob=self.given
            )
            self.validating = other.id
        with database.transaction() as session:
            claimed = jobs.claim(session, "cpu", "w", 60)
            assert claimed is not None
            refer(session, self.artifact)
            jobs.record_round(
                session, claimed, position=0, number=0, sparsity=0, report={"metrics": {}}, lease_seconds=60,
                artifacts=[jobs.NewArtifact("model", "safetensors", "m", self.artifact)],
            )  # fmt: skip
            assert intake.claim(session, "w", 60) is not None
            session.execute(update(Blob).values(touched_at=1.0))

    def path(self, settings: Settings, blob: StoredBlob) -> Path:
        return settings.blob_dir / blob.name[:2] / blob.name


@pytest.fixture
def kept(database: Database, blobs: BlobStore, project: str) -> Kept:
    return Kept(database, blobs, project)


def test_what_is_restored_is_what_was_there(
    settings: Settings, elsewhere: Settings, kept: Kept, tmp_path: Path
) -> None:
    secret = settings.secret()
    made = back_up(settings, tmp_path / "backup")
    assert (made["num_blobs"], made["blob_bytes"]) == (2, len(b"given" + b"artifact"))
    assert stat.S_IMODE((tmp_path / "backup").stat().st_mode) == 0o700
    names = {path.name for path in (tmp_path / "backup").iterdir()}
    assert names == {"espalier.db", "blobs", "secret_key", "backup.json"}
    assert stat.S_IMODE((tmp_path / "backup" / "secret_key").stat().st_mode) == 0o600
    with kept.database.reading() as session:
        touched = {blob.digest for blob in session.scalars(select(Blob).where(Blob.touched_at > 1))}
    assert touched == {kept.given.digest, kept.artifact.digest}, "safe from collection meanwhile; the other one is not"

    restore(elsewhere, tmp_path / "backup")
    assert elsewhere.secret() == secret
    assert stat.S_IMODE((elsewhere.data_dir / "secret_key").stat().st_mode) == 0o600
    blobs, database = open_blobs(elsewhere), Database(elsewhere.database)
    with database.reading() as session:
        copy = located(session, kept.artifact.digest)
        assert b"".join(blobs.read(copy)) == b"artifact"
        backed_up = blob_path(tmp_path / "backup", kept.artifact.digest)
        assert not backed_up.samefile(kept.path(elsewhere, copy))
        job = session.get_one(Job, kept.job.id)
        assert (job.status, job.last_position, job.failures, job.lease_until) == ("queued", 0, 0, None)
        assert session.scalars(select(Attempt.reason)).all() == [REASON]
        model = session.get_one(Model, kept.validating)
        assert (model.status, model.failures, model.lease_until) == ("validating", 0, None)
        assert set(session.scalars(select(Blob.digest))) == touched
    database.close()
    with kept.database.reading() as session:
        assert session.get_one(Job, kept.job.id).status == "running", "the first service goes on as it was"


def test_an_upload_that_was_not_whole_is_not_there(
    settings: Settings, elsewhere: Settings, kept: Kept, project: str, tmp_path: Path
) -> None:
    """Else its client would be told that bytes have arrived which no backup holds."""
    with kept.database.transaction() as session:
        said: dict[str, Any] = {"length_bytes": 9, "expected_digest": None, "expiry_seconds": 3600}
        upload = uploads.create(session, project, max_open=5, **said)
        turn = uploads.take_turn(session, upload.id, 3600)
        uploads.count(session, turn, Part("0" * 64, 0, 5), 3600)
        whole = uploads.create(session, project, max_open=5, **said | {"length_bytes": 0})
        uploads.complete(session, whole.id, kept.given, 3600)
    back_up(settings, tmp_path / "backup")
    restore(elsewhere, tmp_path / "backup")
    database = Database(elsewhere.database)
    with database.reading() as session:
        assert session.scalars(select(Upload.id)).all() == [whole.id]
        assert session.scalars(select(UploadPart.name)).all() == []
        assert session.scalars(select(DiscardedCopy.name)).all() == []
    database.close()


def test_a_checkpoint_is_left_out(
    settings: Settings, elsewhere: Settings, kept: Kept, blobs: BlobStore, tmp_path: Path
) -> None:
    """The service may discard it at any moment, while it is copied, too."""
    saved = blobs.put([b"checkpoint"], 100)
    with kept.database.transaction() as session:
        refer(session, saved)
        checkpoints.record(session, session.get_one(Job, kept.job.id), 1, 10, saved)
    kept.path(settings, saved).unlink()
    back_up(settings, tmp_path / "backup")
    restore(elsewhere, tmp_path / "backup")
    database = Database(elsewhere.database)
    with database.reading() as session:
        assert checkpoints.find(session, kept.job.id, 1) is None
        assert session.get_one(Job, kept.job.id).last_position == 0
    database.close()


def test_a_backup_that_fails_leaves_nothing(settings: Settings, kept: Kept, tmp_path: Path) -> None:
    target = tmp_path / "backups" / "one"
    target.mkdir(parents=True)
    with pytest.raises(BackupError, match="exists; name a folder that does not"):
        back_up(settings, target)
    target.rmdir()
    path = kept.path(settings, kept.artifact)
    path.chmod(0o644)
    path.write_bytes(b"artifice")
    with pytest.raises(BackupError, match=f"blob {kept.artifact.digest} .* is missing or damaged"):
        back_up(settings, target)
    path.unlink()
    with pytest.raises(BackupError, match="FileNotFoundError"):
        back_up(settings, target)
    assert list(target.parent.iterdir()) == []


def test_what_other_servers_keep_is_theirs_to_back_up(settings: Settings, kept: Kept, tmp_path: Path) -> None:
    for changes, words in (
        ({"database_url": "postgresql+psycopg://u@h/d"}, "pg_dump"),
        ({"blob_url": "s3://bucket"}, "bucket"),
        ({"data_dir": tmp_path / "none"}, "ESPALIER_DATA_DIR"),
    ):
        with pytest.raises(BackupError, match=words):
            back_up(settings.model_copy(update=changes), tmp_path / "backup")


def test_nothing_is_restored_over_anything(settings: Settings, elsewhere: Settings, kept: Kept, tmp_path: Path) -> None:
    back_up(settings, tmp_path / "backup")
    with pytest.raises(BackupError, match="is not empty"):
        restore(settings, tmp_path / "backup")
    with pytest.raises(BackupError, match="holds no"):
        restore(elsewhere, tmp_path)
    elsewhere.data_dir.mkdir()
    with lock(elsewhere.data_dir), pytest.raises(BackupError, match="another service runs on"):
        restore(elsewhere, tmp_path / "backup")
    restore(elsewhere, tmp_path / "backup")
    with pytest.raises(BackupError, match="is not empty"):
        restore(elsewhere, tmp_path / "backup")


def damage_blob(folder: Path, kept: Kept) -> None:
    path = blob_path(folder, kept.artifact.digest)
    path.unlink()
    path.write_bytes(b"artifice")


def lose_blob(folder: Path, kept: Kept) -> None:
    blob_path(folder, kept.artifact.digest).unlink()


def damage_database(folder: Path, kept: Kept) -> None:
    with (folder / "espalier.db").open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(4096))


def be_newer(folder: Path, kept: Kept) -> None:
    with closing(sqlite3.connect(folder / "espalier.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")


@pytest.mark.parametrize("damage", [damage_blob, lose_blob, damage_database, be_newer])
def test_of_a_damaged_backup_nothing_is_restored(
    settings: Settings, elsewhere: Settings, kept: Kept, tmp_path: Path, damage: Callable[[Path, Kept], None]
) -> None:
    back_up(settings, tmp_path / "backup")
    damage(tmp_path / "backup", kept)
    with pytest.raises(BackupError):
        restore(elsewhere, tmp_path / "backup")
    assert list(elsewhere.data_dir.iterdir()) == []
