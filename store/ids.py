"""Identifiers: a prefix that says what it names, then time and chance; they sort by the time they were made."""

from __future__ import annotations

import secrets
import time
from typing import Literal

Prefix = Literal["prj", "key", "mdl", "ds", "job", "art", "upl", "req", "tr", "aud", "wh", "dlv", "cmp"]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case: no i, l, o, u to misread


def new_id(prefix: Prefix) -> str:
    """`job_06f3k2...`: 48 bits of milliseconds, 82 of chance."""
    return _spelled(prefix, time.time_ns() // 1_000_000, secrets.randbits(82))


def first_id(prefix: Prefix, at_seconds: float) -> str:
    """No id that was made at this moment or later comes before it."""
    return _spelled(prefix, int(at_seconds * 1000), 0)


def _spelled(prefix: str, milliseconds: int, chance: int) -> str:
    number = milliseconds << 82 | chance
    return f"{prefix}_" + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
