"""What nobody needs goes, what is needed stays: in every order of the steps of uploads and collectors."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import combinations

import pytest
from sqlalchemy import Column, ForeignKey, String, Table, delete, func, insert, select, update

from store import collection, intake
from store.blobs import BlobStore, StoredBlob, Vanishing, located, open_blobs, refer, suspect
from store.database import Database
from store.settings import Settings
from store.tables import Base, Blob, Dataset, DiscardedCopy, Job, Project

AT_ONCE = 1e-6
"""A collector that gives nothing an hour; writers refer to what they wrote within the usual half of one."""


@pytest.fixture
def settings(settings: Settings, blob_url: str | None) -> Settings:
    return settings.model_copy(update={"blob_url": blob_url})


@pytest.fixture
def blobs(settings: Settings) -> BlobStore:
    return open_blobs(settings)


@pytest.fixture
def hasty(settings: Settings) -> BlobStore:
    """The same place."""
    return open_blobs(settings.model_copy(update={"blob_grace_seconds": AT_ONCE}))


@pytest.fixture
def add(database: Database, project: str) -> Callable[[StoredBlob], str]:
    """Make a dataset of it, as an upload does; its id."""

    def made(blob: StoredBlob) -> str:
        with database.transaction() as session:
            return intake.add_dataset(session, project_id=project, name="d", format="npz", blob=blob).id

    return made


@pytest.fixture
def forget(database: Database) -> Callable[[str], None]:
    def gone(dataset_id: str) -> None:
        with database.transaction() as session:
            session.execute(delete(Dataset).where(Dataset.id == dataset_id))

    return gone


Add, Forget = Callable[[StoredBlob], str], Callable[[str], None]


def content_of(database: Database, blobs: BlobStore, digest: str) -> bytes:
    with database.reading() as session:
        blob = located(session, digest)
    return b"".join(blobs.read(blob))


def names(blobs: BlobStore, digest: str) -> set[str]:
    """Of the copies that lie in the store."""
    return {name for name in blobs.old_names(digest[:2], -60) if name.startswith(digest)}


def collect(database: Database, blobs: BlobStore, digest: str) -> int:
    return collection.collect(database, blobs, digest[:2])


def age(database: Database) -> None:
    """As if an hour had passed since somebody last referred to any blob."""
    with database.transaction() as session:
        session.execute(update(Blob).values(touched_at=Blob.touched_at - 3601))


def test_what_nothing_refers_to_goes_after_an_hour(
    database: Database, blobs: BlobStore, add: Add, forget: Forget, submit: Callable[..., Job]
) -> None:
    stays = submit().model_id
    blob = blobs.put([b"examples"], 100)
    dataset = add(blob)
    age(database)
    assert collect(database, blobs, blob.digest) == 0, "it is referred to"
    forget(dataset)
    again = add(replace(blob, refer_by=None))
    forget(again)
    assert collect(database, blobs, blob.digest) == 0, "somebody came for it within the hour"
    age(database)
    assert sum(collect(database, blobs, shard) for shard in collection.SHARDS) == 1
    assert names(blobs, blob.digest) == set()
    with database.reading() as session:
        assert session.get(Blob, blob.digest) is None
        assert session.scalar(select(func.count()).select_from(DiscardedCopy)) == 0
        assert session.scalar(select(func.count()).select_from(Blob)) == 1, f"{stays} keeps its own"


def test_a_new_table_that_refers_to_blobs_is_found_by_itself(database: Database, blobs: BlobStore) -> None:
    table = Table("pictures", Base.metadata, Column("digest", String(64), ForeignKey("blobs.digest"), primary_key=True))
    try:
        table.create(database.engine)
        blob = blobs.put([b"picture"], 100)
        with database.transaction() as session:
            refer(session, blob)
            session.execute(insert(table).values(digest=blob.digest))
        age(database)
        assert collect(database, blobs, blob.digest) == 0
        with database.transaction() as session:
            session.execute(delete(table))
        assert collect(database, blobs, blob.digest) == 1
    finally:
        table.drop(database.engine)
        Base.metadata.remove(table)
    assert {column.table.name for column in collection.references()} >= {"models", "datasets", "artifacts"}


def test_an_upload_beside_a_collector_in_every_order(
    database: Database, blobs: BlobStore, hasty: BlobStore, add: Add, forget: Forget
) -> None:
    """Three steps of a collector and two of an upload of the same content, one after the other in every way."""
    for orders, positions in enumerate(combinations(range(5), 2)):
        content = [b"content %d" % orders]
        old = blobs.put(content, 100)
        forget(add(old))
        age(database)
        shard = old.digest[:2]
        written: list[StoredBlob] = []

        def look_for_unreferenced(shard: str = shard) -> None:
            with database.transaction() as session:
                collection.discard_unreferenced(session, shard, blobs.grace_seconds)

        collectors = iter(
            [
                look_for_unreferenced,
                partial(collection.remove_discarded, database, blobs),
                partial(collection.remove_strays, database, blobs, shard),
            ]
        )
        uploads = iter(
            [
                lambda content=content, written=written: written.append(blobs.put(content, 100)),
                lambda written=written: add(written[0]),
            ]
        )
        for step in range(5):
            next(uploads if step in positions else collectors)()  # type: ignore[operator]
        assert content_of(database, blobs, old.digest) == content[0], positions
        # And once all is quiet, one copy is there.
        collect(database, hasty, old.digest)
        assert names(blobs, old.digest) == {located_name(database, old.digest)}


def located_name(database: Database, digest: str) -> str:
    with database.reading() as session:
        return located(session, digest).name


def test_a_collector_that_wakes_up_after_all_is_over_does_no_harm(
    database: Database, blobs: BlobStore, add: Add, forget: Forget
) -> None:
    """It had seen what to remove, was stopped, another one did it, and the content was uploaded again."""
    blob = blobs.put([b"again"], 100)
    forget(add(blob))
    age(database)
    with database.transaction() as session:
        collection.discard_unreferenced(session, blob.digest[:2], blobs.grace_seconds)
    with database.reading() as session:
        seen = session.scalars(select(DiscardedCopy.name)).all()
    assert seen == [blob.name]
    assert collect(database, blobs, blob.digest) == 1, "killed behind its first step, it left the rest to the next"
    add(blobs.put([b"again"], 100))
    for name in seen:
        blobs.remove(name)
    assert content_of(database, blobs, blob.digest) == b"again"


def test_content_without_a_row_goes_when_nobody_can_come_for_it(
    database: Database, blobs: BlobStore, hasty: BlobStore, add: Add
) -> None:
    """A writer was killed, or its transaction failed, behind the copy."""
    left = blobs.put([b"left"], 100)
    kept = add(blobs.put([b"kept"], 100))
    assert sum(collection.remove_strays(database, blobs, shard) for shard in collection.SHARDS) == 0, "they are young"
    time.sleep(1.1)  # S3 dates objects by the second
    assert sum(collection.remove_strays(database, hasty, shard) for shard in collection.SHARDS) == 1
    with pytest.raises(FileNotFoundError):
        blobs.size_bytes(left)
    with database.reading() as session:
        assert content_of(database, blobs, session.get_one(Dataset, kept).blob_digest) == b"kept"
    late = replace(left, refer_by=time.time() - 1)
    with pytest.raises(Vanishing), database.transaction() as session:
        refer(session, late)


def test_content_without_a_row_goes_from_among_much_that_is_needed(
    database: Database, blobs: BlobStore, hasty: BlobStore, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection, "BATCH", 1)
    one_shard = [c for c in (b"%d" % n for n in range(2000)) if hashlib.sha256(c).hexdigest().startswith("0")]
    by_shard: dict[str, list[bytes]] = {}
    for content in one_shard:
        by_shard.setdefault(hashlib.sha256(content).hexdigest()[:2], []).append(content)
    shard, contents = max(by_shard.items(), key=lambda item: len(item[1]))
    stored = [blobs.put([content], 100) for content in contents[:5]]
    for blob in stored[:3]:
        add(blob)
    time.sleep(1.1)
    assert [collection.remove_strays(database, hasty, shard) for _ in range(3)] == [1, 1, 0]
    assert set(blobs.old_names(shard, 0)) == {blob.name for blob in stored[:3]}


def test_another_databases_content_is_left_alone(
    database: Database, blobs: BlobStore, hasty: BlobStore, caplog: pytest.LogCaptureFixture
) -> None:
    left = blobs.put([b"left"], 100)
    assert blobs.owner("prj_of_another_database") == "prj_of_another_database"
    assert blobs.owner("prj_mine") == "prj_of_another_database"
    time.sleep(1.1)
    assert collection.remove_strays(database, hasty, left.digest[:2]) == 0
    assert "belong to another database" in caplog.text
    with database.transaction() as session:
        session.add(Project(id="prj_of_another_database", name="p", created_at=1.0))
    assert collection.remove_strays(database, hasty, left.digest[:2]) == 1


def test_the_first_copy_stays_unless_it_is_damaged(database: Database, blobs: BlobStore, add: Add) -> None:
    first, second = blobs.put([b"abc"], 100), blobs.put([b"abc"], 100)
    add(first)
    add(second)
    add(second)
    assert located_name(database, first.digest) == first.name
    collection.remove_discarded(database, blobs)
    assert names(blobs, first.digest) == {first.name}
    with database.transaction() as session:
        suspect(session, first)
    add(second)
    assert located_name(database, first.digest) == first.name, "the second was given up, and does not come back"
    third = blobs.put([b"abc"], 100)
    add(third)
    collection.remove_discarded(database, blobs)
    assert names(blobs, first.digest) == {third.name} == {located_name(database, first.digest)}


@pytest.mark.parametrize("blob_url", ["disk"], indirect=True)
def test_uploads_and_collectors_in_a_crowd_lose_nothing(
    database: Database, blobs: BlobStore, add: Add, forget: Forget
) -> None:
    """Everybody has the same content, and collectors wait no hour."""
    over = threading.Event()
    content = os.urandom(1000)
    digest = blobs.put([content], 1000).digest

    done = [0] * 5

    def upload(who: int) -> None:
        while not over.is_set():
            dataset = add(blobs.put([content], 1000))
            assert content_of(database, blobs, digest) == content
            forget(dataset)
            done[who] += 1

    def tidy(who: int) -> None:
        while not over.is_set():
            with database.transaction() as session:
                collection.discard_unreferenced(session, digest[:2], 0)
            done[who] += collection.remove_discarded(database, blobs)

    with ThreadPoolExecutor(5) as threads:
        working = [threads.submit(work, who) for who, work in enumerate((upload, upload, upload, tidy, tidy))]
        until = time.monotonic() + 60
        while time.monotonic() < until and min(done) < 3 and not any(future.done() for future in working):
            time.sleep(0.1)
        over.set()
    for future in working:
        future.result()
    assert min(done) >= 3
