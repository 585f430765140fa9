"""Content by its digest, on a disk and on S3: one contract."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store
from pydantic import ValidationError
from s3 import S3Server

from store.blobs import BlobsAway, BlobStore, Damaged, StoredBlob, TooLarge, open_blobs
from store.settings import Settings

MIB = 1 << 20


class Inside:
    """What lies in a store, seen past its verbs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.bucket = None
        if settings.blob_bucket is not None:
            name, prefix = settings.blob_bucket
            self.bucket = S3Store(name, prefix=prefix, client_options={"allow_http": True})

    def names(self) -> list[str]:
        """Of all that is there, on its way in or kept."""
        folder = self.settings.blob_dir if self.bucket is None else self.settings.data_dir / "incoming"
        files = [path.name for path in folder.rglob("*") if path.is_file()]
        objects = [meta["path"] for page in obstore.list(self.bucket) for meta in page] if self.bucket else []
        return files + [path.rpartition("/")[2] for path in objects]

    def replace(self, blob: StoredBlob, content: bytes) -> None:
        place = f"{blob.name[:2]}/{blob.name}"
        if self.bucket is not None:
            obstore.put(self.bucket, place, content)
        else:
            (self.settings.blob_dir / place).unlink()
            (self.settings.blob_dir / place).write_bytes(content)


@pytest.fixture
def place(tmp_path: Path, blob_url: str | None) -> Settings:
    return Settings(data_dir=tmp_path / "data", blob_url=blob_url)


@pytest.fixture
def blobs(place: Settings) -> BlobStore:
    return open_blobs(place)


@pytest.fixture
def inside(place: Settings, blobs: BlobStore) -> Inside:
    return Inside(place)


@pytest.mark.parametrize("num_bytes", [0, 1, 3 * MIB, 8 * MIB, 20 * MIB + 1])
def test_every_copy_of_content_has_a_name_of_its_own(
    blobs: BlobStore, inside: Inside, tmp_path: Path, num_bytes: int
) -> None:
    """In one request, and in several parts."""
    content = os.urandom(num_bytes)
    first = blobs.put([content[:1000], content[1000:]], num_bytes)
    second = blobs.put([content], num_bytes)
    assert first.name != second.name
    assert sorted(inside.names()) == sorted([first.name, second.name])
    for blob in (first, second):
        assert (blob.digest, blob.size_bytes) == (hashlib.sha256(content).hexdigest(), num_bytes)
        assert blobs.size_bytes(blob) == num_bytes
        assert b"".join(blobs.read(blob)) == content
    blobs.fetch(first, tmp_path / "input")
    assert (tmp_path / "input").read_bytes() == content
    assert (tmp_path / "input").stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 0), (5, 5), (3 * MIB, 9 * MIB + 7), (9 * MIB, None)])
def test_a_range_is_read_in_pieces(blobs: BlobStore, start: int, stop: int | None) -> None:
    content = os.urandom(10 * MIB)
    pieces = list(blobs.read(blobs.put([content], len(content)), start, stop))
    assert b"".join(pieces) == content[start:stop]
    assert max(map(len, pieces), default=0) <= 4 * MIB


def test_nothing_is_left_past_the_limit_or_after_an_exception(blobs: BlobStore, inside: Inside) -> None:
    with pytest.raises(TooLarge):
        blobs.put([b"12345", b"67890"], 9)
    with pytest.raises(TooLarge):
        blobs.put([bytes(8 * MIB)] * 3, 20 * MIB)
    with pytest.raises(KeyError), blobs.writer(100) as writer:
        writer.write(b"half")
        raise KeyError
    assert inside.names() == []


def test_what_is_not_there_is_not_found(blobs: BlobStore, tmp_path: Path) -> None:
    digest = hashlib.sha256().hexdigest()
    nothing = StoredBlob(digest, 0, f"{digest}-{16 * '0'}")
    with pytest.raises(FileNotFoundError):
        blobs.size_bytes(nothing)
    with pytest.raises(FileNotFoundError):
        list(blobs.read(nothing, 0, 1))
    with pytest.raises(FileNotFoundError):
        blobs.fetch(nothing, tmp_path / "input")
    assert not (tmp_path / "input").exists()


def test_content_that_was_cut_short_is_damaged(blobs: BlobStore, inside: Inside) -> None:
    blob = blobs.put([bytes(100)], 100)
    inside.replace(blob, bytes(50))
    with pytest.raises(Damaged, match=f"{blob.digest} ends at byte 50"):
        list(blobs.read(blob, 0, 100))


@pytest.mark.parametrize("blob_url", ["s3"], indirect=True)
def test_what_came_over_a_network_is_checked_before_it_is_used(
    blobs: BlobStore, inside: Inside, tmp_path: Path
) -> None:
    blob = blobs.put([bytes(9 * MIB)], 9 * MIB)
    inside.replace(blob, bytes(9 * MIB - 1) + b"\x01")
    with pytest.raises(Damaged, match=f"blob {blob.digest} is damaged"):
        blobs.fetch(blob, tmp_path / "input")
    assert not (tmp_path / "input").exists()


def test_the_same_content_from_many_sides(blobs: BlobStore, inside: Inside) -> None:
    content = os.urandom(9 * MIB)
    with ThreadPoolExecutor(4) as threads:
        stored = list(threads.map(lambda _: blobs.put([content], len(content)), range(8)))
    assert {blob.name for blob in stored} == set(inside.names())
    assert all(b"".join(blobs.read(blob)) == content for blob in stored)


WRITER = """
import sys, time
from store.blobs import open_blobs
from store.settings import Settings
with open_blobs(Settings()).writer(1 << 30) as writer:
    writer.write(bytes(20 << 20))
    print("written", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_writer_left_is_cleared_and_what_is_being_written_is_not(
    blobs: BlobStore, inside: Inside, place: Settings
) -> None:
    environment = {"ESPALIER_DATA_DIR": str(place.data_dir), "ESPALIER_BLOB_URL": place.blob_url}
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER],
        env=os.environ | {name: value for name, value in environment.items() if value},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with blobs.writer(100) as writer:
        writer.write(b"whole")
        for name in inside.names():
            if (left := place.blob_dir / "incoming" / name).stat().st_size > MIB:
                os.utime(left, (1.0, 1.0))
        blobs.clear_incoming(older_than_seconds=60)
        stored = writer.finish()
    assert inside.names() == [stored.name]


# A store that does not answer.


def test_a_server_that_is_away_is_said_to_be(s3: S3Server, tmp_path: Path) -> None:
    blobs = open_blobs(Settings(data_dir=tmp_path, blob_url="s3://bucket"))
    blob = blobs.put([b"abc"], 3)
    assert blobs.ping()
    s3.process.kill()
    s3.process.wait()
    began = time.monotonic()
    assert not blobs.ping()
    assert time.monotonic() - began < 3
    for attempt in (
        lambda: blobs.put([b"abc"], 3),
        lambda: blobs.put([bytes(20 * MIB)], 20 * MIB),
        lambda: list(blobs.read(blob)),
        lambda: blobs.size_bytes(blob),
        lambda: blobs.fetch(blob, tmp_path / "input"),
        lambda: blobs.remove(blob.name),
        lambda: blobs.old_names(blob.name[:2], 0),
    ):
        with pytest.raises(BlobsAway, match="does not answer"):
            attempt()
    assert not (tmp_path / "input").exists()
    assert time.monotonic() - began < 20


def test_a_bucket_that_is_not_there_is_no_lost_object(s3: S3Server, tmp_path: Path) -> None:
    blobs = open_blobs(Settings(data_dir=tmp_path, blob_url="s3://no-bucket/prefix"))
    assert not blobs.ping()
    blob = StoredBlob(hashlib.sha256().hexdigest(), 0, hashlib.sha256().hexdigest())
    for attempt in (
        lambda: blobs.put([b"abc"], 3),
        lambda: list(blobs.read(blob, 0, 1)),
        lambda: blobs.size_bytes(blob),
        lambda: blobs.fetch(blob, tmp_path / "input"),
    ):
        with pytest.raises(BlobsAway, match="bucket"):
            attempt()


def test_a_folder_that_is_away_is_waited_for(tmp_path: Path) -> None:
    blobs = open_blobs(Settings(data_dir=tmp_path))
    incoming, shard = tmp_path / "blobs" / "incoming", tmp_path / "blobs" / hashlib.sha256(b"abc").hexdigest()[:2]
    for place in (incoming, shard):
        moved = place.with_name("moved")
        if place.exists():
            place.rename(moved)
        place.touch()
        with pytest.raises(BlobsAway, match="the blob folder is away"):
            blobs.put([b"abc"], 3)
        place.unlink()
        if moved.exists():
            moved.rename(place)
    assert list(incoming.iterdir()) == []
    assert b"".join(blobs.read(blobs.put([b"abc"], 3))) == b"abc"


def test_where_blobs_lie_is_a_setting(tmp_path: Path) -> None:
    assert Settings(data_dir=tmp_path).blob_dir == tmp_path / "blobs"
    assert Settings(blob_url=f"file://{tmp_path}/a%20b").blob_dir == tmp_path / "a b"
    assert Settings(blob_url="s3://bucket").blob_bucket == ("bucket", "")
    assert Settings(blob_url="s3://bucket/some/prefix/").blob_bucket == ("bucket", "some/prefix")
    for unknown in ("gs://bucket", "s3://", "/folder", "file://host"):
        with pytest.raises(ValidationError, match="s3://bucket/prefix"):
            Settings(blob_url=unknown)
