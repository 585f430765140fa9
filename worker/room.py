"""Whether the disk has room for an attempt, and who took it. Measured here, not believed of a child."""

from __future__ import annotations

import logging

from store.blobs import BlobStore
from store.room import free_bytes
from store.settings import Settings
from worker.folder import Folder
from worker.limits import OverLimit

log = logging.getLogger(__name__)


class Room:
    """Of one worker: what `min_free_bytes` leaves of the disks that its folders and the blobs lie on."""

    def __init__(self, blobs: BlobStore, settings: Settings) -> None:
        settings.work_dir.mkdir(parents=True, exist_ok=True)
        self._blobs, self._work_dir, self._least = blobs, settings.work_dir, settings.min_free_bytes
        self._was_there = True

    def is_there(self) -> bool:
        """Enough for an attempt and its results: one that cannot be stored would be computed again and again. What
        waits, waits; the sweeper rings."""
        is_there = self._free_bytes() >= self._least
        if is_there != self._was_there:
            log.warning("the disk has room again" if is_there else "the disk is full, or away: no work is taken")
        self._was_there = is_there
        return is_there

    def is_taken_by_others(self, folder: Folder) -> bool:
        """There would be none without this attempt, too: whatever failed for want of it is not its fault."""
        return self._free_bytes() + _taken_bytes(folder) < self._least

    def is_taken_by(self, folder: Folder) -> bool:
        """The attempt itself took it, and would do so again: it must not be tried for ever."""
        return self._free_bytes() < self._least <= self._free_bytes() + _taken_bytes(folder)

    def _free_bytes(self) -> int:
        """A folder that is away has none: it is asked while an attempt is given up, which must not fail."""
        try:
            return min(self._blobs.free_bytes(), free_bytes(self._work_dir))
        except OSError:
            return 0


def _taken_bytes(folder: Folder) -> int:
    try:
        return folder.size_bytes()
    except OverLimit:
        return folder.max_bytes
