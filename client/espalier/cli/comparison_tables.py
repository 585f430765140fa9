"""A comparison as people read it: its parts while they run, and its rows and recommendation at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from espalier.cli import words
from espalier.cli.output import Output
from espalier.client import Client
from espalier.comparisons import Comparison

PARTS = ["recipe", "seed", "job", "state", "done"]


def state_of(comparison: Comparison) -> str:
    progress = comparison["progress"]
    ended = comparison["conclusion"] if comparison["done"] else f"{progress['done']} of {progress['jobs']} jobs done"
    return f"{comparison['status']}, {ended}"


def watch(client: Client, output: Output, comparison_id: str, timeout_seconds: float | None) -> Comparison:
    with _view(output) as view:
        for comparison in client.follow_comparison(comparison_id, timeout_seconds=timeout_seconds):
            view.show(comparison)
    return comparison


class _Lines:
    """One for each part, and for the whole, whenever its state is another."""

    def __init__(self, output: Output) -> None:
        self._output, self._said = output, dict[object, str]()

    def show(self, comparison: Comparison) -> None:
        for part in comparison["parts"]:
            name = part["recipe"], part["seed"]
            self._say(name, f"{part['recipe']}, seed {part['seed']}, {part['job'] or '-'}: {_state_of_part(part)}")
        self._say(None, f"{comparison['id']}: {state_of(comparison)}")

    def _say(self, of: object, line: str) -> None:
        if self._said.get(of) != line:
            self._said[of] = line
            self._output.say(line)


class _Picture:
    def __init__(self, live: Live, width: int, height: int) -> None:
        self._live, self._width, self._height = live, width, height

    def show(self, comparison: Comparison) -> None:
        self._live.update(picture(comparison, self._width, self._height), refresh=True)


@contextmanager
def _view(output: Output) -> Iterator[_Lines | _Picture]:
    if not output.err.is_terminal:
        yield _Lines(output)
        return
    with Live(console=output.err, auto_refresh=False) as live:
        yield _Picture(live, output.err.width, output.err.height)


def picture(comparison: Comparison, width: int, height: int) -> RenderableType:
    """The whole, and as many parts as there is room for: those that have not ended go first."""
    progress = comparison["progress"]
    head = Text(f"{comparison['id']}  {state_of(comparison)}", style="bold")
    if progress["eta_seconds"] is not None and not comparison["done"]:
        head.append(f"  about {words.duration(progress['eta_seconds'])} left", style="dim")
    table = Table(*PARTS, box=None, pad_edge=False, header_style="bold")
    parts = sorted(comparison["parts"], key=lambda part: part["fraction"] == 1.0)
    for part in parts[: max(3, height - 6)]:
        row = [part["recipe"], str(part["seed"]), part["job"] or "-", _state_of_part(part)]
        table.add_row(*map(words.clean, row), words.percent(part["fraction"]))
    bar = ProgressBar(total=1.0, completed=progress["fraction"], width=min(60, width))
    return Group(head, bar, Text(""), table)


def _state_of_part(part: dict[str, Any]) -> str:
    if part["job"] is None:
        return "deleted"
    return part["status"] if part["conclusion"] is None else f"{part['status']}, {part['conclusion']}"


def columns(table: dict[str, Any]) -> list[str]:
    return ["recipe", "round", "sparsity", table["metric"], "seeds", "time", ""]


def rows(table: dict[str, Any]) -> list[list[str]]:
    """Mean ± sample standard deviation over seeds; the time is a job's up to this round."""
    return [
        [
            row["recipe"] if row["control"] is None else f"{row['recipe']}: {row['control'].replace('_', ' ')}",
            str(row["round"]),
            words.percent(row["sparsity"]),
            words.measure(row["mean"]) + ("" if row["std"] is None else f" ± {row['std']:.4f}"),
            str(row["num_seeds"]),
            _seconds(row["seconds_so_far"]),
            " ".join(word for word in ("recommended", "pareto") if row[word]),
        ]
        for row in table["data"]
    ]


def _seconds(seconds: float | None) -> str:
    """Recipes are told apart by less than whole seconds where all are quick."""
    return words.duration(seconds) if seconds is None or seconds >= 60 else f"{seconds:.1f} s"
