"""In the child: which of the checkpoints that training offers are written."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from pruning.checkpoints import Checkpoint
from pruning.formats.checkpoints import size_bytes, write_checkpoint
from worker.messages import Checkpointed, Message

MAX_SHARE = 20
"""A checkpoint is worth a twentieth of the time, however slow the disk."""
ROOM = 5
"""An entry's own files, of which each is at most as large as a checkpoint of it, must still find room."""


class Saver:
    """One every so often, and one at the end. What cannot be made is done without: memory that is short for a moment,
    or a disk that is full, cost the work since the last one, and not the job."""

    def __init__(self, outputs: Path, every_seconds: float, folder_bytes: int, say: Callable[[Message], None]) -> None:
        self._outputs, self._every_seconds, self._folder_bytes, self._say = outputs, every_seconds, folder_bytes, say
        self._num_written = 0
        self._last: Path | None = None
        self._due_at = time.monotonic() + every_seconds

    def offer(self, make: Callable[[], Checkpoint], at_once: bool) -> None:
        """Raises Diverged: what is not a number any more is not saved."""
        if not at_once and (time.monotonic() < self._due_at or self._is_unsent()):
            return
        started = time.monotonic()
        self._save(make, self._outputs / f"checkpoint.{self._num_written}")
        took = time.monotonic() - started
        self._due_at = time.monotonic() + max(self._every_seconds, MAX_SHARE * took)

    def _is_unsent(self) -> bool:
        """The supervisor removes what it has copied."""
        return self._last is not None and self._last.exists()

    def _save(self, make: Callable[[], Checkpoint], path: Path) -> None:
        try:
            checkpoint = make()
            if self._num_bytes() + ROOM * size_bytes(checkpoint) > self._folder_bytes:
                print("no checkpoint: the folder has no room for it", file=sys.stderr, flush=True)
                return
            write_checkpoint(path, checkpoint)
        except (MemoryError, RuntimeError, OSError, SafetensorError) as error:
            path.unlink(missing_ok=True)
            print(f"no checkpoint: {error}", file=sys.stderr, flush=True)
            return
        self._num_written, self._last = self._num_written + 1, path
        self._say(Checkpointed(position=checkpoint.position, step=checkpoint.step, file=path.name))

    def _num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._outputs.iterdir() if path.is_file())
