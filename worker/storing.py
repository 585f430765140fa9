"""Files of a child into the blob store, and what refers to them into the database."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sqlalchemy.orm import Session

from store.blobs import BlobStore, StoredBlob, Vanishing
from worker.folder import Folder
from worker.lease import PATIENCE_SECONDS, Lease


def store_files(
    lease: Lease,
    folder: Folder,
    blobs: BlobStore,
    files: dict[str, str],
    record: Callable[[dict[str, StoredBlob], Session], None],
    patience_seconds: float = PATIENCE_SECONDS,
) -> None:
    """Copy files into the store, then refer to them, in one transaction with what they belong to."""

    def copy(name: str) -> StoredBlob:
        return lease.keep_while(partial(folder.store, name, blobs), patience_seconds)

    while True:
        stored = {kind: copy(name) for kind, name in files.items()}
        try:
            lease.write(partial(record, stored))
            return
        except Vanishing:
            continue  # a collector took one of them in between: the files are still here, copy again
