"""What the demo shows: bars while it waits, a table per job, the curves of all."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from espalier import Job, Round
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

console = Console(highlight=False)

STYLES = [("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^")]
"""Okabe and Ito's colours, which the colour-blind tell apart; the markers do it in grey."""


class Following:
    """One bar per job; where the output is no terminal, one line per round."""

    def __init__(self, jobs: list[tuple[str, str]]) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            TextColumn("{task.fields[state]:<20}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks = {
            job_id: self._progress.add_task(name, total=1, state="queued", start=False) for job_id, name in jobs
        }
        self._names = dict(jobs)
        self._said: tuple[str, str] | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._progress.stop()
        console.print()

    def update(self, job: Job) -> None:
        task, state = self._tasks[job["id"]], _state(job)
        if job["started_at"] is not None:
            self._progress.start_task(task)
        self._progress.update(task, completed=1 if job["done"] else job["progress"]["fraction"], state=state)
        if not console.is_terminal and (job["id"], state) != self._said:
            self._said = (job["id"], state)
            console.print(f"{self._names[job['id']]}: {state}")


def _state(job: Job) -> str:
    if job["done"]:
        return job["conclusion"] or job["status"]
    progress = job["progress"]
    if progress["round"] is None:
        return job["status"]
    return f"round {progress['round']} of {progress['rounds']}"


def selected(job: Job, rounds: list[Round]) -> Round:
    """The round that the job returns; `final` names the unnumbered last entry."""
    wanted = None if job["selected_round"] == "final" else job["selected_round"]
    return next(round_ for round_ in rounds if round_["number"] == wanted)


def print_rounds(title: str, job: Job, rounds: list[Round]) -> None:
    table = Table(title=f"{title}: {job['conclusion']}", title_justify="left", title_style="bold")
    table.add_column("round")
    for column in ("sparsity", "non-zeros", "validation", "test", "test - dense"):
        table.add_column(column, justify="right")
    dense, chosen = rounds[0], selected(job, rounds)
    for round_ in rounds:
        validation, test = (round_["metrics"][split]["accuracy"] for split in ("validation", "test"))
        table.add_row(
            f"{_label(round_)}{' < selected' if round_ is chosen else ''}",
            f"{round_['sparsity']['actual']:.1%}",
            f"{round_['num_nonzero']:,}",
            f"{validation:.4f}",
            f"{test:.4f}",
            f"{test - dense['metrics']['test']['accuracy']:+.4f}",
            style="bold" if round_ is chosen else None,
        )
    console.print(table)
    console.print()


def _label(round_: Round) -> str:
    return "final" if round_["number"] is None else str(round_["number"])


def draw_curves(results: list[tuple[str, Job, list[Round]]], folder: Path) -> None:
    """Validation accuracy, which is what floors and choices read, against sparsity."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for (name, job, rounds), (colour, marker) in zip(results, STYLES, strict=True):
        numbered = [_point(round_) for round_ in rounds if round_["number"] is not None]
        final = [_point(round_) for round_ in rounds if round_["number"] is None]
        axes.plot(*zip(*numbered, strict=True), color=colour, marker=marker, markersize=5, label=name)
        if final:
            last_step = zip(numbered[-1], *final, strict=True)
            axes.plot(*last_step, color=colour, marker=marker, linestyle=":", label="its final entry")
        axes.plot(*_point(selected(job, rounds)), color=colour, marker="o", markersize=13, fillstyle="none")
        dense_accuracy = numbered[0][1]
        axes.axhline(dense_accuracy, color=colour, linewidth=0.8, linestyle=(0, (1, 3)))
        floor = job["recipe"]["stop"].get("accuracy_floor")
        if floor is not None:
            floor_accuracy = floor["factor"] * dense_accuracy
            axes.axhline(floor_accuracy, color=colour, linewidth=1.2, linestyle="--", label=f"{name}'s floor")
    axes.plot([], color="grey", linewidth=0.8, linestyle=(0, (1, 3)), label="dense")
    axes.plot([], color="grey", marker="o", markersize=9, fillstyle="none", linestyle="none", label="selected")
    axes.set(xlabel="sparsity: fraction removed", ylabel="validation accuracy")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=9, loc="lower left")
    for kind in ("png", "svg"):
        figure.savefig(folder / f"accuracy.{kind}", dpi=200)


def _point(round_: Round) -> tuple[float, float]:
    return round_["sparsity"]["actual"], round_["metrics"]["validation"]["accuracy"]
