from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from sqlalchemy import update

from store.blobs import BlobStore, TooLarge, Vanishing, refer
from store.database import Database
from store.tables import Blob


def files_of(blobs: BlobStore) -> list[Path]:
    return [path for path in blobs.root.rglob("*") if path.is_file()]


def test_content_is_stored_once_under_its_digest(blobs: BlobStore) -> None:
    content = os.urandom(3 << 20)
    first = blobs.put([content[:1000], content[1000:]], len(content))
    second = blobs.put([content], len(content))
    assert first == second
    assert first.digest == hashlib.sha256(content).hexdigest()
    assert [path.name for path in files_of(blobs)] == [first.digest]
    with blobs.open(first.digest) as file:
        assert file.read() == content


def test_nothing_is_left_past_the_limit_or_after_an_exception(blobs: BlobStore) -> None:
    with pytest.raises(TooLarge):
        blobs.put([b"12345", b"67890"], 9)
    with pytest.raises(KeyError), blobs.writer(100) as writer:
        writer.write(b"half")
        raise KeyError
    assert files_of(blobs) == []


def test_a_link_is_the_content_under_another_name(blobs: BlobStore, tmp_path: Path) -> None:
    stored = blobs.put([b"abc"], 3)
    blobs.link(stored.digest, tmp_path / "input")
    assert (tmp_path / "input").read_bytes() == b"abc"


def test_a_blob_on_its_way_out_is_not_referred_to(database: Database, blobs: BlobStore) -> None:
    stored = blobs.put([b"abc"], 3)
    with database.transaction() as session:
        refer(session, stored)
        refer(session, stored)
        session.execute(update(Blob).values(deleting=True))
    with pytest.raises(Vanishing), database.transaction() as session:
        refer(session, stored)


def test_what_a_killed_writer_left_is_cleared_and_what_is_being_written_is_not(blobs: BlobStore) -> None:
    left = blobs.root / "incoming" / "left"
    left.write_bytes(b"half")
    os.utime(left, (1.0, 1.0))
    with blobs.writer(100) as writer:
        writer.write(b"whole")
        assert blobs.clear_incoming(older_than_seconds=60) == 1
        stored = writer.finish()
    assert [path.name for path in files_of(blobs)] == [stored.digest]
