"""How long to go on where the service is away: so long from the last time that something came."""

from __future__ import annotations

import logging
import time

from espalier.errors import ApiError, Unreachable
from espalier.wires import Wire

log = logging.getLogger("espalier")

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 10.0


class Patience:
    def __init__(self, wire: Wire, seconds: float) -> None:
        self._wire, self._seconds = wire, seconds
        self.renew()

    def renew(self) -> None:
        """Something came."""
        self._give_up_at = time.monotonic() + self._seconds
        self._pause_seconds = FIRST_PAUSE_SECONDS

    async def bear(self, error: Unreachable | ApiError) -> None:
        """Pause, longer each time, and not for less than the service asked for. Raises the error where trying again
        is of no use, or the time is over: a restart of the service, a cut connection or a busy moment passes."""
        if not is_passing(error):
            raise error
        pause_seconds = self._pause_seconds
        if isinstance(error, ApiError):
            pause_seconds = max(pause_seconds, error.retry_after_seconds or 0)
        if time.monotonic() + pause_seconds > self._give_up_at:
            raise error
        log.warning("%s; trying again in %.1f s", error, pause_seconds)
        await self.pause(pause_seconds)

    async def pause(self, seconds: float | None = None) -> None:
        await self._wire.sleep(self._pause_seconds if seconds is None else seconds)
        self._pause_seconds = min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS)


def is_passing(error: Unreachable | ApiError) -> bool:
    """Whether the same request may succeed in a moment. That a model is still being validated is not of this kind:
    whoever asks did not wait for it, and hears so at once."""
    return isinstance(error, Unreachable) or (error.retryable and error.code != "not_ready")
