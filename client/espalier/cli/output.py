"""What is printed, and where: results on stdout, all else on stderr. On a terminal in tables and colours, elsewhere in
plain lines; with `--output json` one object, for a program."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from espalier.cli import exits, words
from espalier.errors import ApiError, EspalierError, JobFailed
from espalier.files import Progress


class Output:
    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.out, self.err = _console(sys.stdout), _console(sys.stderr)

    def say(self, text: str) -> None:
        """What a person wants to know meanwhile."""
        self.err.print(words.clean(text))

    def line(self, text: str) -> None:
        """Of the result."""
        self.out.print(words.clean(text))

    def result(self, document: Any, show: Callable[[], None]) -> None:
        """The one object, or what `show` prints of it."""
        if self.as_json:
            sys.stdout.write(json.dumps(document, indent=2 if sys.stdout.isatty() else None) + "\n")
            sys.stdout.flush()
        else:
            show()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
        """Tabs between columns where it is no terminal: for cut and awk."""
        if not self.out.is_terminal:
            self.out.file.writelines("\t".join(map(words.clean, row)) + "\n" for row in (columns, *rows))
            return
        table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*map(words.clean, row))
        self.out.print(table)

    def failed(self, error: EspalierError | OSError) -> exits.Exit:
        """Say what went wrong and what to do next."""
        code, advice = exits.of_error(error), exits.advice(error)
        self.err.print(words.clean(f"espalier: {error}"), style="red")
        if advice:
            self.err.print(advice)
        if self.as_json:
            document: dict[str, Any] = {"object": "error", "exit": int(code), "message": str(error), "advice": advice}
            if isinstance(error, ApiError):
                document["problem"] = error.problem
            self.result(error.job if isinstance(error, JobFailed) else document, lambda: None)
        return code

    @contextmanager
    def transfer(self, what: str) -> Iterator[Progress]:
        """A bar on a terminal; one line elsewhere."""
        if not self.err.is_terminal:
            self.say(what)
            yield lambda _done, _of: None
            return
        columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
        with Bars(*columns, console=self.err, transient=True) as bars:
            task = bars.add_task(what, total=None)
            yield lambda done, of: bars.update(task, completed=done, total=of)
        self.say(what)


def _console(stream: TextIO) -> Console:
    """Whether it is a terminal is asked of the stream alone: variables that force colours would put them into files.
    Lines are not broken in files. NO_COLOR is heeded."""
    is_terminal = stream.isatty()
    return Console(
        file=stream, force_terminal=is_terminal, soft_wrap=not is_terminal, markup=False, emoji=False, highlight=False
    )
