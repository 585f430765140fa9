"""This package's version, and what it means that the service has another one."""

from __future__ import annotations

import re
import warnings

from espalier.errors import VersionSkew

VERSION = "0.1.0"
HEADER = "Espalier-Version"
"""That every answer of the service bears."""


def compared(service: str, client: str = VERSION) -> str | None:
    """What to do where the two do not fit; None where they do.

    Versions that agree in the first number other than 0 fit: what comes within them is added, not changed.
    """
    theirs, ours = _line(service), _line(client)
    if theirs is None or ours is None or theirs == ours:
        return None
    fitting = ".".join(map(str, theirs))
    install = f"pip install 'espalier=={fitting}.*'"
    if theirs > ours:
        return f"the service is {service} and this client {client}, which is older: {install}"
    return f"the service is {service} and this client {client}, which is newer: {install}, or upgrade the service"


def warn_once(service: str | None, told: set[str]) -> None:
    """Of each version that a client meets."""
    if service is not None and service not in told:
        told.add(service)
        if advice := compared(service):
            warnings.warn(advice, VersionSkew, stacklevel=2)


def _line(version: str) -> tuple[int, ...] | None:
    """0.3.1 belongs to the line (0, 3), and 2.4.0 to (2,)."""
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None:
        return None
    major, minor = int(match[1]), int(match[2])
    return (major,) if major else (major, minor)
