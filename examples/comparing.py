"""The demo's last part: the three strategies on one network, over two seeds, beside two controls."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from digits import SCALE
from espalier import Client, Dataset, EspalierError, Model
from pictures import console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

TRAINING = {
    "batch_size": 60,
    "optimizer": {"name": "adam", "lr": 0.0012},
    "early_stopping": None,
    "evaluate_every_steps": 50,
    "preprocessing": {"scale": SCALE},
}
WEIGHTS = {"schedule": {"fraction": 0.5}, "stop": {"rounds": 4}}
UNITS = {"schedule": {"fraction": 0.3}, "stop": {"rounds": 4, "accuracy_floor": None}}
RECIPES: dict[str, dict[str, Any]] = {
    "lottery ticket, reset": {"strategy": "lottery_ticket_reset", **WEIGHTS},
    "lottery ticket, continue": {"strategy": "lottery_ticket_continue", **WEIGHTS},
    "DropNet": {"strategy": "dropnet", **UNITS},
}
CONTROLS = ["random_mask", "random_reinit"]
GOAL = {"metric": "accuracy", "keep_ratio": 0.99, "want": "smallest"}


def compare(client: Client, model: Model, dataset: Dataset, folder: Path) -> dict[str, Any]:
    """Post the comparison, follow it, print table and recommendation, store plot and summary; the recommendation."""
    posted = client.compare(
        model=model,
        dataset=dataset,
        recipes={name: {**recipe, "training": TRAINING} for name, recipe in RECIPES.items()},
        seeds=[1, 2],
        budget={"steps_per_round": 120},
        controls=CONTROLS,
        goal=GOAL,
        priority=10,
    )
    try:
        _follow(client, posted)
        client.wait_comparison(posted["id"])
    except BaseException:
        with suppress(EspalierError):  # it was done already
            client.cancel_comparison(posted["id"])
        raise
    _print(client.comparison_table(posted["id"]))
    recommended = client.recommendation(posted["id"])
    console.print(f"[bold]{recommended['summary']}[/]")
    for kind in ("png", "svg"):
        client.download_comparison_plot(posted["id"], folder / f"comparison.{kind}")
    (folder / "comparison.md").write_text(client.comparison_summary(posted["id"], plot="comparison.png"))
    return recommended


def is_sound(recommended: dict[str, Any]) -> bool:
    """A round that meets the goal was found in every seed, and its network lies ready."""
    kinds = {artifact["kind"] for artifact in recommended["artifacts"]}
    return bool(recommended["final"] and recommended["met"] and {"model", "masks", "ticket"} <= kinds)


def _follow(client: Client, posted: dict[str, Any]) -> None:
    columns = TextColumn("{task.description:<24}"), BarColumn(), TextColumn("{task.fields[state]:<20}")
    num_jobs = len(posted["parts"])
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"comparison of {num_jobs} jobs", total=1, state="queued")
        for seen in client.follow_comparison(posted["id"], interval_seconds=0.2):
            state = f"{seen['progress']['done']} of {num_jobs} done"
            progress.update(task, completed=seen["progress"]["fraction"], state=state)
    console.print()


def _print(table: dict[str, Any]) -> None:
    """The last round of each recipe and control, and whatever is recommended."""
    shown = Table(title="the three strategies and their controls", title_justify="left", title_style="bold")
    for column in ("recipe", "round"):
        shown.add_column(column)
    for column in ("removed", "validation", "test", "seeds"):
        shown.add_column(column, justify="right")
    rows = [row for row in table["data"] if row["round"] != "final"]
    last = {(row["recipe"], row["control"]): row for row in rows}
    for row in rows:
        if row is not last[row["recipe"], row["control"]] and not row["recommended"]:
            continue
        name = row["recipe"] if row["control"] is None else f"  {row['control'].replace('_', ' ')}"
        shown.add_row(
            name,
            f"{row['round']}{' < recommended' if row['recommended'] else ''}",
            f"{row['removed']:.1%}",
            f"{row['mean']:.4f} ± {row['std']:.4f}",
            f"{row['test_mean']:.4f}",
            str(row["num_seeds"]),
            style="bold" if row["recommended"] else None,
        )
    console.print(shown)
