from __future__ import annotations

from collections.abc import Iterator

import pytest
from fleet import Fleet

from store.blobs import BlobStore
from store.database import Database
from store.settings import Settings


@pytest.fixture
def fleet(settings: Settings, database: Database, blobs: BlobStore, project: str) -> Iterator[Fleet]:
    """Nobody works yet: tests start what they want to kill."""
    fleet = Fleet(settings, database, blobs, project)
    yield fleet
    fleet.stop()
