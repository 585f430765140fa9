"""`espalier compare`: several recipes and seeds over one network and dataset, and which of them to take."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from espalier.cli import comparison_tables as tables
from espalier.cli import references
from espalier.cli.connecting import connected
from espalier.cli.exits import Exit
from espalier.cli.fetching import fetch_comparison
from espalier.cli.interrupts import held
from espalier.cli.output import Output
from espalier.cli.pruning import FRACTION
from espalier.cli.recipes import gates_of, labels_of, recipe_of
from espalier.cli.references import Shape
from espalier.cli.waiting import Watched, wait_to_end
from espalier.client import Client
from espalier.comparisons import Comparison

KEEP_RATIO = 0.99
"""As the service has it where nothing is asked for."""
BUDGETS = ("steps", "steps_per_round", "seconds")


@click.command()
@click.argument("model")
@click.argument("data")
@click.option("--strategy", "strategies", multiple=True, help="A named recipe: espalier strategies. Several times.")
@click.option(
    "--recipe", "files", type=click.Path(path_type=Path, exists=True, dir_okay=False), multiple=True,
    help="A recipe as JSON, called as its file. Several times.",
)  # fmt: skip
@click.option("--seed", "seeds", type=click.IntRange(min=0), multiple=True, default=(0,), help="Several times.")
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE", help="Of each recipe: training.steps=300.")
@click.option("--sparsity", type=FRACTION, help="Prune so far.")
@click.option("--steps", type=click.IntRange(min=1), help="The budget: of training in each job.")
@click.option("--steps-per-round", type=click.IntRange(min=1), help="The budget: of training in each round.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="The budget: of each job's rounds.")
@click.option(
    "--control", "controls", type=click.Choice(["random_mask", "random_reinit"]), multiple=True,
    help="Trained beside each pruned round. Several times.",
)  # fmt: skip
@click.option(
    "--keep-accuracy-ratio", type=click.FloatRange(0, 1, min_open=True),
    help=f"The goal: the smallest network with so much of the dense one's accuracy.  [default: {KEEP_RATIO}]",
)  # fmt: skip
@click.option("--min-removed", type=FRACTION, help="The goal, too: so much of all parameters removed.")
@click.option("--gate", "gates", multiple=True, metavar="'METRIC >= VALUE'", help="Pass only if this holds.")
@click.option("--input-shape", type=Shape(), help="Of one example: 1,28,28.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Kept with the comparison and its jobs.")
@click.option("--pool", help="The workers that may take its jobs.")
@click.option("--wait/--detach", default=True, help="Watch until it ends (the default), or leave it running.")
@click.option("--timeout", "timeout_seconds", type=float, metavar="SECONDS", help="Watch so long; it goes on.")
@click.option("--cancel-on-interrupt", is_flag=True, help="Ctrl-C cancels all of it; else it goes on.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="A folder for the results.")
@connected
def compare(client: Client, output: Output, /, model: str, data: str, **given: Any) -> int:
    """Prune MODEL, trained on DATA, by several recipes, each with every seed, and recommend one of their rounds.

    \b
    espalier compare net.py:Net digits.npz --strategy lottery_ticket_reset --strategy dropnet \\
        --seed 0 --seed 1 --seed 2 --steps-per-round 500 --keep-accuracy-ratio 0.99 --out compared
    """
    if given["out"] and not given["wait"]:
        raise click.UsageError("--out needs the results, which --detach does not wait for; later: espalier download")
    request = _request(client, output, model, data, given)

    def post() -> Comparison:
        comparison = client.compare(**request)
        output.say(f"posted {comparison['id']}: {comparison['progress']['jobs']} jobs")
        return comparison

    if not given["wait"]:
        with held():
            comparison = post()
            output.result(comparison, lambda: output.line(comparison["id"]))
        return Exit.PASSED
    return watch_comparison(
        client, output, post, timeout_seconds=given["timeout_seconds"],
        cancel_on_interrupt=given["cancel_on_interrupt"], out=given["out"],
    )  # fmt: skip


def watch_comparison(
    client: Client,
    output: Output,
    begin: Callable[[], Comparison],
    *,
    timeout_seconds: float | None,
    cancel_on_interrupt: bool,
    out: Path | None,
) -> Exit:
    """Until it ends; then show what came of it. What failed halfway has a table and files, too, of what there is."""
    watched = Watched(client.comparison, partial(tables.watch, client, output), client.cancel_comparison)
    comparison, code = wait_to_end(
        output, watched, begin, timeout_seconds=timeout_seconds, cancel_on_interrupt=cancel_on_interrupt
    )
    if not comparison["done"]:
        output.result(comparison, lambda: output.line(comparison["id"]))
        return code
    table, best = client.comparison_table(comparison["id"]), client.recommendation(comparison["id"])
    files = [] if out is None else fetch_comparison(client, output, comparison["id"], out)

    def show() -> None:
        output.table(tables.columns(table), tables.rows(table))
        output.line(f"{comparison['id']}: {comparison['conclusion']}. {best['summary']}")
        for file in files:
            output.line(str(file))

    found = {"table": table, "recommendation": best, "files": [str(file) for file in files]}
    output.result({**comparison, **found}, show)
    return code


def _request(client: Client, output: Output, model: str, data: str, given: dict[str, Any]) -> dict[str, Any]:
    """Flags are read before a byte is sent."""
    recipes = _recipes(client, given)
    options = {
        "seeds": given["seeds"], "controls": given["controls"], "gates": gates_of(given["gates"], None, None, None),
        "budget": _budget(given), "goal": _goal(given), "metadata": labels_of(given["labels"]), "pool": given["pool"],
    }  # fmt: skip
    model_id = references.model_id(client, output, model, input_shape=given["input_shape"], data=data)
    dataset_id = references.dataset_id(client, output, data)
    return {"model": model_id, "dataset": dataset_id, "recipes": recipes, **options}


def _recipes(client: Client, given: dict[str, Any]) -> list[dict[str, Any]]:
    asked: list[tuple[str, str | None, Path | None]] = [(name, name, None) for name in given["strategies"]]
    asked += [(file.stem, None, file) for file in given["files"]]
    if not asked:
        raise click.UsageError("what to compare? Give --strategy (espalier strategies lists them) or --recipe FILE")
    sparsity = given["sparsity"]
    known = client.strategies() if sparsity is not None else []
    return [
        {"name": name, "recipe": recipe_of(strategy, file, given["settings"], None, sparsity, known)}
        for name, strategy, file in asked
    ]


def _budget(given: dict[str, Any]) -> dict[str, Any] | None:
    budget = {name: given[name] for name in BUDGETS if given[name] is not None}
    if len(budget) > 1:
        raise click.UsageError("give one budget: --steps, --steps-per-round or --seconds")
    return budget or None


def _goal(given: dict[str, Any]) -> dict[str, Any] | None:
    """None: the service's own, which knows whether the recipes measure accuracy."""
    ratio, removed = given["keep_accuracy_ratio"], given["min_removed"]
    if ratio is None and removed is None:
        return None
    return {"metric": "accuracy", "keep_ratio": KEEP_RATIO if ratio is None else ratio, "min_removed": removed}
