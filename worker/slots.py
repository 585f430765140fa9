"""A worker's slots: places for one child each. Uploads have one of their own, so none waits behind an hour of training.

A message that finds every slot of its kind taken must not wait for one: it would hold a thread that the other kind
needs. It leaves word instead, and whoever frees a slot looks again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """`cuda_device` is what CUDA_VISIBLE_DEVICES gets in its children: an index or a UUID. None: the CPU."""

    cuda_device: str | None = None


class Slots:
    """Slots of one kind; safe to share between threads."""

    def __init__(self, slots: Iterable[Slot]) -> None:
        self._lock = threading.Lock()
        self._free = list(slots)
        self._num_slots = len(self._free)
        self._words_left = 0

    def __len__(self) -> int:
        return self._num_slots

    def take(self) -> Slot | None:
        """A free slot; or None, and word is left: a later `give_back` answers it.

        Under one lock with `give_back`, which closes the race where a worker's last claim found nothing, then a row
        came and its message found the slot still taken, and then the slot was freed and nobody looked.
        """
        with self._lock:
            if self._free:
                return self._free.pop(0)
            # Once every slot is bound to look again, more messages have nothing to add.
            self._words_left = min(self._words_left + 1, self._num_slots)
            return None

    def give_back(self, slot: Slot) -> bool:
        """Free the slot. True: word was left while it was taken, so its holder takes one again and looks."""
        with self._lock:
            self._free.append(slot)
            if self._words_left == 0:
                return False
            self._words_left -= 1
            return True
