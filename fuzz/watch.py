"""What a reader must never do, seen by Python's audit hooks: run code, look things up in a pickle, leave its file."""

from __future__ import annotations

import sys
from pathlib import Path
from types import CodeType
from typing import Any

FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.remove", "os.rename", "os.mkdir", "os.symlink", "os.link",
    "os.chmod", "os.putenv", "subprocess.Popen", "socket.", "pickle.find_class", "shutil.", "urllib.", "code.__new__",
)  # fmt: skip


class Watch:
    """Of this process, from `begin` to `end`. An audit hook cannot be taken off, and what it raises may be caught: so
    it notes what it saw."""

    def __init__(self) -> None:
        self._seen: list[str] = []
        self._watching = False
        sys.addaudithook(self._hook)

    def begin(self) -> None:
        self._seen.clear()
        self._watching = True

    def end(self) -> list[str]:
        """What was seen that must not be."""
        self._watching = False
        return list(self._seen)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._watching:
            return
        if event.startswith(FORBIDDEN) or (event == "exec" and not _is_of_a_file(args[0])) or _writes(event, args):
            self._seen.append(f"{event} {args!r}"[:300])


def _is_of_a_file(code: CodeType) -> bool:
    """A module that is imported for the first time; or what torch.fx writes of a graph of ours, whose names come from
    the upload: code in one of them would not stop at running, but do what is seen here."""
    name = code.co_filename
    return name.startswith(("<frozen", "<eval_with_key>")) or Path(name).is_file()


def _writes(event: str, args: tuple[Any, ...]) -> bool:
    return event == "open" and isinstance(args[1], str) and any(letter in args[1] for letter in "wax+")
