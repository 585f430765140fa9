"""How many requests a key may make, told in every answer (draft-ietf-httpapi-ratelimit-headers).

The counts lie in the broker, so that all API processes share them. A broker that is away refuses nobody: meanwhile
each process counts by itself, and asks again after a while.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from redis import RedisError

from api.problems import Problem

log = logging.getLogger(__name__)

AWAY_SECONDS = 5.0
"""After a failure the broker is left alone for so long: waiting for it would slow every request down."""


@dataclass(frozen=True)
class Standing:
    """Where a key stands after this request."""

    is_within: bool
    limit: int
    window_seconds: int
    remaining: int
    reset_seconds: int

    def headers(self) -> dict[str, str]:
        return {
            "RateLimit-Policy": f'"key";q={self.limit};w={self.window_seconds}',
            "RateLimit": f'"key";r={self.remaining};t={self.reset_seconds}',
        }

    def problem(self) -> Problem:
        return Problem(
            "rate_limited",
            f"at most {self.limit} requests in {self.window_seconds} s; wait {self.reset_seconds} s",
            headers={"Retry-After": str(self.reset_seconds)},
        )


class Rates:
    def __init__(self, rate: str, broker_url: str | None) -> None:
        """`broker_url` None: counted by this process alone."""
        self._item: RateLimitItem = parse(rate)
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared: SlidingWindowCounterRateLimiter | None = None
        if broker_url is not None:
            self._storage = RedisStorage(
                broker_url, key_prefix="espalier-rate", socket_connect_timeout=0.5, socket_timeout=0.5
            )
            self._shared = SlidingWindowCounterRateLimiter(self._storage)
        self._away_until = 0.0

    def hit(self, who: str) -> Standing:
        if self._shared is not None and time.monotonic() >= self._away_until:
            try:
                return self._hit(self._shared, who)
            except (RedisError, OSError) as error:
                self._away_until = time.monotonic() + AWAY_SECONDS
                log.warning("the broker does not count requests: %s; each process counts its own", error)
        return self._hit(self._own, who)

    def _hit(self, limiter: SlidingWindowCounterRateLimiter, who: str) -> Standing:
        is_within = limiter.hit(self._item, who)
        reset_at, remaining = limiter.get_window_stats(self._item, who)
        reset_seconds = max(1, math.ceil(reset_at - time.time()))
        return Standing(is_within, self._item.amount, self._item.get_expiry(), remaining, reset_seconds)

    def close(self) -> None:
        if self._shared is not None:
            self._storage.storage.close()
