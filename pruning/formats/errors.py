"""The one error of what comes in."""

from __future__ import annotations


class FormatError(ValueError):
    """A file or a model that cannot be taken. `field` is the key or field at fault; the message ends with a remedy."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
