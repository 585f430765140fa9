"""A job as it goes on: curves and a table that grow on a terminal, a line for each change elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from espalier.cli import charts, words
from espalier.cli.exits import Exit
from espalier.cli.output import Output
from espalier.cli.waiting import Watched, wait_to_end
from espalier.client import Client
from espalier.shapes import Job, Round

LEAST_COLUMNS = 40


def watch_to_end(
    client: Client,
    output: Output,
    begin: Callable[[], Job],
    *,
    timeout_seconds: float | None = None,
    cancel_on_interrupt: bool = False,
) -> tuple[Job, Exit]:
    """The job and what the process ends with; see `wait_to_end`."""
    watched = Watched(client.job, partial(watch, client, output), client.cancel)
    return wait_to_end(output, watched, begin, timeout_seconds=timeout_seconds, cancel_on_interrupt=cancel_on_interrupt)


def watch(client: Client, output: Output, job_id: str, timeout_seconds: float | None) -> Job:
    rounds: list[Round] = []
    with _view(output) as view:
        for job in client.follow(job_id, timeout_seconds=timeout_seconds):
            rounds = client.rounds(job_id)
            view.show(job, rounds)
    if job["error"]:
        output.err.print(f"{job_id}: {job['error']['code']}: {job['error']['message']}", style="red")
    return job


class _Lines:
    def __init__(self, output: Output) -> None:
        self._output, self._said, self._num_rounds = output, "", 0

    def show(self, job: Job, rounds: list[Round]) -> None:
        if not job["done"]:
            self._say(job, job["status"])
        metric = words.metric_of(rounds)
        for round_ in rounds[self._num_rounds :]:
            self._output.say(words.line(round_, metric))
        self._num_rounds = len(rounds)
        if job["done"]:
            self._say(job, words.state(job))

    def _say(self, job: Job, state: str) -> None:
        if state != self._said:
            self._said = state
            self._output.say(f"{job['id']}: {state}")


class _Picture:
    def __init__(self, live: Live, console: Console) -> None:
        self._live, self._console = live, console

    def show(self, job: Job, rounds: list[Round]) -> None:
        self._live.update(picture(job, rounds, self._console.width, self._console.height), refresh=True)


@contextmanager
def _view(output: Output) -> Iterator[_Lines | _Picture]:
    if not output.err.is_terminal:
        yield _Lines(output)
        return
    with Live(console=output.err, auto_refresh=False) as live:
        yield _Picture(live, output.err)


def picture(job: Job, rounds: list[Round], width: int, height: int) -> RenderableType:
    """State, curves and the latest rounds, in as many characters as there are."""
    metric = words.metric_of(rounds)
    progress, eta = job["progress"], words.duration(job["progress"]["eta_seconds"])
    head = Text(f"{job['id']}  {words.state(job)}", style="bold")
    if not job["done"] and eta != "-":
        head.append(f"  about {eta} left", style="dim")
    done = 1.0 if job["done"] else progress["fraction"]
    parts: list[RenderableType] = [head, ProgressBar(total=1.0, completed=done, width=min(60, width))]
    seen = rounds[-max(1, (width - 10) // charts.COLUMN) :]
    if seen and width >= LEAST_COLUMNS and height >= 24:
        accuracies = [words.validation(round_, metric) for round_ in seen]
        sparsities = [words.sparsity(round_) for round_ in seen]
        names = ["f" if round_["number"] is None else str(round_["number"]) for round_ in seen]
        low, high = charts.bounds(accuracies)
        parts += [Text(f"\n{metric} (validation)"), *_drawn(charts.chart(accuracies, 4, low, high, ".3f"), "cyan")]
        parts += [Text("sparsity"), *_drawn(charts.chart(sparsities, 3, 0.0, 1.0, ".0%"), "green")]
        parts += [Text(line, style="dim") for line in charts.axis(names)]
    table = Table(*words.columns(metric), box=None, pad_edge=False, header_style="bold")
    room = max(3, height - (18 if len(parts) > 2 else 6))
    for row in words.rows(job, rounds, metric)[-room:]:
        table.add_row(*row)
    if rounds:
        parts += [Text(""), table]
    return Group(*parts)


def _drawn(lines: list[str], style: str) -> list[Text]:
    return [Text(line, style=style, no_wrap=True) for line in lines]
