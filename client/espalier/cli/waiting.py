"""Until it has ended, or until whoever waits has enough of it: the same for a job and for a comparison."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from espalier.cli.exits import Exit, of_conclusion
from espalier.cli.interrupts import held
from espalier.cli.output import Output
from espalier.errors import WaitTimedOut
from espalier.shapes import Job

CANCEL_SECONDS = 120.0
"""How long an interrupted command waits for what it has canceled to end."""

T = TypeVar("T", Job, dict[str, Any])


@dataclass(frozen=True)
class Watched(Generic[T]):
    """What can be done about it, by its id."""

    read: Callable[[str], T]
    watch: Callable[[str, float | None], T]
    """Show it until it has ended; WaitTimedOut after so many seconds."""
    cancel: Callable[[str], T]


def wait_to_end(
    output: Output,
    watched: Watched[T],
    begin: Callable[[], T],
    *,
    timeout_seconds: float | None = None,
    cancel_on_interrupt: bool = False,
) -> tuple[T, Exit]:
    """As it is then, and what the process ends with. Whoever stops watching, by Ctrl-C or because the time is over,
    leaves it running, and is told how to go on. `begin` posts or reads it, and is not interrupted halfway."""
    seen: T | None = None
    try:
        with held():
            seen = begin()
        seen = watched.watch(seen["id"], timeout_seconds)
    except WaitTimedOut as error:
        assert seen is not None  # only watching takes time
        output.say(f"{error}; {_how_to_go_on(seen['id'])}")
        return watched.read(seen["id"]), Exit.GAVE_UP
    except KeyboardInterrupt:
        if seen is None:
            raise
        if not cancel_on_interrupt:
            output.say(f"\n{_how_to_go_on(seen['id'])}")
            return seen, Exit.GAVE_UP
        output.say(f"\ncanceling {seen['id']}")
        with _second_interrupt_leaves():
            watched.cancel(seen["id"])
            seen = watched.watch(seen["id"], CANCEL_SECONDS)
    return seen, of_conclusion(seen["conclusion"])


def _how_to_go_on(row_id: str) -> str:
    return f"{row_id} goes on. Watch it: espalier watch {row_id}; cancel it: espalier jobs cancel {row_id}"


@contextmanager
def _second_interrupt_leaves() -> Iterator[None]:
    """Whoever presses Ctrl-C twice means the second one, too: while it is being canceled, leave at once."""

    def leave(*_: object) -> None:
        raise WaitTimedOut("left before it had ended")

    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
