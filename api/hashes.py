"""What this process remembers of uploads that go on in another request; to lose it costs time alone."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import Any


class Hashes:
    """Of uploads that this process has seen from their first byte, so that their content need not be read again."""

    MOST = 1000

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[int, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, upload_id: str, offset_bytes: int) -> Any | None:
        with self._lock:
            kept = self._kept.pop(upload_id, (0, None))
        if offset_bytes == 0:
            return hashlib.sha256()
        return kept[1] if kept[0] == offset_bytes else None

    def keep(self, upload_id: str, offset_bytes: int, hash: Any) -> None:
        with self._lock:
            self._kept[upload_id] = (offset_bytes, hash)
            while len(self._kept) > self.MOST:
                self._kept.popitem(last=False)
