"""`espalier compare`: several strategies over one network and dataset, side by side."""

from __future__ import annotations

from typing import Any

import click

from espalier.cli import references, words
from espalier.cli.connecting import connected
from espalier.cli.exits import Exit, of_job
from espalier.cli.interrupts import held
from espalier.cli.output import Output
from espalier.cli.pruning import FRACTION
from espalier.cli.recipes import gates_of, recipe_of
from espalier.cli.references import Shape
from espalier.cli.watching import watch
from espalier.client import Client
from espalier.errors import WaitTimedOut
from espalier.shapes import Job

COLUMNS = ["job", "strategy", "seed", "conclusion", "round", "sparsity", "metric", "value", "dense"]


@click.command()
@click.argument("model")
@click.argument("data")
@click.option("--strategy", "strategies", multiple=True, required=True, help="Several times.")
@click.option("--seed", "seeds", type=click.IntRange(min=0), multiple=True, default=(0,), help="Several times.")
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE", help="Of each recipe: training.steps=300.")
@click.option("--sparsity", type=FRACTION, help="Prune so far, and pass only if that was reached.")
@click.option("--min-accuracy-ratio", type=float, help="Pass only with so much of the dense network's accuracy.")
@click.option("--gate", "gates", multiple=True, metavar="'METRIC >= VALUE'", help="Pass only if this holds.")
@click.option("--input-shape", type=Shape(), help="Of one example: 1,28,28.")
@click.option("--pool", help="The workers that may take them.")
@click.option("--timeout", "timeout_seconds", type=float, metavar="SECONDS", help="Watch each so long.")
@connected
def compare(client: Client, output: Output, /, model: str, data: str, **given: Any) -> int:
    """Post one job for each strategy and seed, watch them end, and show them in one table, best first.

    Ends with 0 where one has passed, with 1 where none has, with 3 or 4 where none came to an end of its own.
    """
    known = client.strategies()
    gates = gates_of(given["gates"], given["sparsity"], None, given["min_accuracy_ratio"])
    model_id = references.model_id(client, output, model, input_shape=given["input_shape"], data=data)
    dataset_id = references.dataset_id(client, output, data)
    options = {"pool": given["pool"]} if given["pool"] else {}
    posted: list[str] = []
    with held():
        for strategy in given["strategies"]:
            for seed in given["seeds"]:
                recipe = recipe_of(strategy, None, given["settings"], seed, given["sparsity"], known)
                job = client.create_job(model=model_id, dataset=dataset_id, recipe=recipe, gates=gates, **options)
                posted.append(job["id"])
                output.say(f"posted {job['id']}: {strategy}, seed {seed}")
    try:
        jobs = [watch(client, output, job_id, given["timeout_seconds"]) for job_id in posted]
    except (KeyboardInterrupt, WaitTimedOut):
        output.say(f"they go on: {' '.join(posted)}. Each: espalier watch JOB; end one: espalier jobs cancel JOB")
        return Exit.GAVE_UP
    rows = sorted((_row(client, job) for job in jobs), key=_merit, reverse=True)
    shown = [[_cell(row[column]) for column in COLUMNS] for row in rows]
    output.result({"object": "list", "data": rows}, lambda: output.table(COLUMNS, shown))
    return min(of_job(job) for job in jobs)


def _row(client: Client, job: Job) -> dict[str, Any]:
    rounds = client.rounds(job["id"])
    chosen, metric = words.selected(job, rounds), words.metric_of(rounds)
    return {
        "job": job["id"],
        "strategy": job["recipe"].get("strategy"),
        "seed": job["recipe"].get("seed"),
        "conclusion": job["conclusion"],
        "round": job["selected_round"],
        "sparsity": words.sparsity(chosen) if chosen else None,
        "metric": metric,
        "value": words.validation(chosen, metric) if chosen else None,
        "dense": words.validation(rounds[0], metric) if rounds else None,
    }


def _merit(row: dict[str, Any]) -> tuple[bool, float, float]:
    """Passed before not passed, then the sparser, then the better."""
    value = row["value"] or 0.0
    return row["conclusion"] == "passed", row["sparsity"] or 0.0, value if row["metric"] == "accuracy" else -value


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
