"""Content out of the blob store into an attempt's folder; and a child's files into it, with what refers to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from sqlalchemy.orm import Session

from store.blobs import BlobStore, Damaged, StoredBlob, Vanishing, located, suspect
from worker.folder import Folder
from worker.lease import PATIENCE_SECONDS, Lease


def fetch(lease: Lease, blobs: BlobStore, digest: str, target: Path) -> None:
    """Copy content into the attempt's folder. A copy that is found wrong gives way to the next that is uploaded.

    Raises Damaged, FileNotFoundError, and what `Lease.keep_while` raises.
    """
    blob = lease.write(lambda session: located(session, digest))
    try:
        lease.keep_while(partial(blobs.fetch, blob, target))
    except (Damaged, FileNotFoundError):
        lease.write(lambda session: suspect(session, blob))
        raise


def store_files(
    lease: Lease,
    folder: Folder,
    blobs: BlobStore,
    files: dict[str, str],
    record: Callable[[dict[str, StoredBlob], Session], None],
    patience_seconds: float = PATIENCE_SECONDS,
) -> None:
    """Copy files into the store, then refer to them, in one transaction with what they belong to."""

    copies = {kind: partial(folder.store, name, blobs) for kind, name in files.items()}
    store_copies(lease, copies, record, patience_seconds)


def store_copies(
    lease: Lease,
    copies: Mapping[str, Callable[[], StoredBlob]],
    record: Callable[[dict[str, StoredBlob], Session], None],
    patience_seconds: float = PATIENCE_SECONDS,
) -> None:
    """The same with anything that puts content into the store."""
    while True:
        stored = {kind: lease.keep_while(copy, patience_seconds) for kind, copy in copies.items()}
        try:
            lease.write(partial(record, stored))
            return
        except Vanishing:
            continue  # so much time has passed that a collector may take them: the files are still here, copy again
