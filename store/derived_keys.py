"""Keys for one purpose each, all from the service's one secret: whoever learns one learns no other."""

from __future__ import annotations

from typing import Literal

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Purpose = Literal["links", "provenance", "sessions"]


def derived_key(secret: bytes, purpose: Purpose) -> bytes:
    """32 bytes, the same on every machine that has the secret (HKDF, RFC 5869).

    The secret must be hard to guess, for HKDF makes nothing slower: a public key or a link is enough to try guesses on.
    """
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=f"espalier/{purpose}".encode()).derive(secret)
