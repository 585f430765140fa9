"""Why nothing can be stored at the moment: the store is away, or there is no room. Later it may be."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import DBAPIError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_POSTGRES_DISK_FULL = "53100"


class BlobsAway(Exception):
    """The object store does not answer, or refuses: nothing was stored, and later it may be."""


class Full(BlobsAway):
    """There is no room: nothing was stored, and once there is room it may be."""


def is_full(error: BaseException) -> bool:
    """Of a disk, a quota or a database. A transaction that ends so was rolled back for certain."""
    if isinstance(error, DBAPIError):
        code = getattr(error.orig, "sqlite_errorcode", None)
        return code == sqlite3.SQLITE_FULL or getattr(error.orig, "sqlstate", None) == _POSTGRES_DISK_FULL
    return isinstance(error, Full) or (isinstance(error, OSError) and error.errno in _NO_ROOM)


@contextmanager
def needing_room() -> Iterator[None]:
    """A disk or database without room, as Full."""
    try:
        yield
    except (OSError, DBAPIError) as error:
        if is_full(error):
            raise Full(f"there is no room: {getattr(error, 'orig', error)}") from error
        raise


@contextmanager
def needing_folder() -> Iterator[None]:
    """A folder that is not mounted, or takes no writes, as BlobsAway."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise
        raise BlobsAway(f"the blob folder is away: {error.strerror}") from error


def free_bytes(folder: Path) -> int:
    """What others than root may still write there."""
    return shutil.disk_usage(folder).free
