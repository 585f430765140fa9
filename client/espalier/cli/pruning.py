"""`espalier prune`: from a network and data to the pruned network, and the verdict, in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from espalier.cli import references, words
from espalier.cli.connecting import connected
from espalier.cli.exits import Exit
from espalier.cli.fetching import fetch_all
from espalier.cli.interrupts import held
from espalier.cli.output import Output
from espalier.cli.recipes import gates_of, labels_of, recipe_of
from espalier.cli.references import Shape
from espalier.cli.watching import watch_to_end
from espalier.client import Client
from espalier.shapes import Job, Plan

FRACTION = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.command()
@click.argument("model")
@click.argument("data")
@click.option("--strategy", help="A named recipe: espalier strategies.")
@click.option("--recipe", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="A recipe as JSON.")
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE", help="Of the recipe: training.steps=300.")
@click.option("--seed", type=click.IntRange(min=0))
@click.option("--sparsity", type=FRACTION, help="Prune so far, and pass only if that was reached.")
@click.option("--min-accuracy-ratio", type=float, help="Pass only with so much of the dense network's accuracy.")
@click.option("--min-accuracy", type=float, help="Pass only with this validation accuracy.")
@click.option("--gate", "gates", multiple=True, metavar="'METRIC >= VALUE'", help="Pass only if this holds.")
@click.option("--select", type=click.Choice(["smallest_passing", "best", "last"]), help="Which round is returned.")
@click.option("--architecture", help="Whose weights MODEL holds, if it is a .safetensors file.")
@click.option("--input-shape", type=Shape(), help="Of one example: 1,28,28.")
@click.option("--num-classes", type=click.IntRange(min=2))
@click.option("--tokens", is_flag=True, help="MODEL is code that takes whole numbers.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Kept with the job.")
@click.option("--pool", help="The workers that may take it.")
@click.option("--priority", type=int)
@click.option("--deadline", "deadline_seconds", type=float, metavar="SECONDS", help="The job fails then.")
@click.option("--wait/--detach", default=True, help="Watch until it ends (the default), or leave it running.")
@click.option("--timeout", "timeout_seconds", type=float, metavar="SECONDS", help="Watch so long; the job goes on.")
@click.option("--cancel-on-interrupt", is_flag=True, help="Ctrl-C cancels the job; else it goes on.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="A folder for the results.")
@click.option("--dry-run", is_flag=True, help="Check, plan and estimate; nothing runs.")
@connected
def prune(client: Client, output: Output, /, model: str, data: str, **given: Any) -> int:
    """Prune MODEL, trained on DATA.

    MODEL is an exported network (.pt2), code of yours that is exported on the way (net.py:Net), weights of a named
    architecture (.safetensors with --architecture), the name of one, or an id. DATA is .npz, .safetensors or an id.

    \b
    espalier prune net.py:Net digits.npz --strategy lottery_ticket_reset \\
        --sparsity 0.9 --min-accuracy-ratio 0.99 --out pruned
    """
    if given["out"] and not given["wait"]:
        raise click.UsageError("--out needs the results, which --detach does not wait for; later: espalier download")
    request = _request(client, output, model, data, given)
    if given["dry_run"]:
        plan = client.plan_job(**request)
        output.result(plan, lambda: _show_plan(output, plan))
        return Exit.PASSED

    def post() -> Job:
        job = client.create_job(**request)
        output.say(f"posted {job['id']}")
        return job

    if not given["wait"]:
        with held():
            job = post()
            output.result(job, lambda: output.line(job["id"]))
        return Exit.PASSED
    job, code = watch_to_end(
        client, output, post, timeout_seconds=given["timeout_seconds"],
        cancel_on_interrupt=given["cancel_on_interrupt"],
    )  # fmt: skip
    files: list[Path] = []
    if given["out"] and job["status"] == "succeeded":
        files = fetch_all(client, output, job, given["out"])
    output.result({**job, "files": [str(file) for file in files]}, lambda: show_verdict(client, output, job, files))
    return code


def _request(client: Client, output: Output, model: str, data: str, given: dict[str, Any]) -> dict[str, Any]:
    """Flags are read before a byte is sent."""
    sparsity = given["sparsity"]
    strategies = client.strategies() if sparsity is not None else []
    recipe = recipe_of(given["strategy"], given["recipe"], given["settings"], given["seed"], sparsity, strategies)
    gates = gates_of(given["gates"], sparsity, given["min_accuracy"], given["min_accuracy_ratio"])
    options = {key: given[key] for key in ("select", "pool", "priority", "deadline_seconds") if given[key] is not None}
    metadata = labels_of(given["labels"])
    model_id = references.model_id(
        client, output, model, architecture=given["architecture"], input_shape=given["input_shape"],
        num_classes=given["num_classes"], tokens=given["tokens"], data=data,
    )  # fmt: skip
    dataset_id = references.dataset_id(client, output, data)
    return {
        "model": model_id, "dataset": dataset_id, "recipe": recipe, "gates": gates, "metadata": metadata, **options,
    }  # fmt: skip


def show_verdict(client: Client, output: Output, job: Job, files: list[Path]) -> None:
    if not job["done"]:
        output.line(job["id"])
        return
    rounds = client.rounds(job["id"])
    chosen = words.selected(job, rounds)
    output.line(f"{job['id']}: {job['conclusion']}")
    if chosen is not None:
        metric = words.metric_of(rounds)
        dense = words.measure(words.validation(rounds[0], metric))
        output.line(f"{words.line(chosen, metric)} (dense {dense})")
    for file in files:
        output.line(str(file))


def _show_plan(output: Output, plan: Plan) -> None:
    rows = [[str(row["number"]), words.percent(row["sparsity"]), f"{row['num_remaining']:,}"] for row in plan["rounds"]]
    output.table(["round", "sparsity", "left"], rows)
    estimate = plan["estimate"]
    output.line(
        f"about {words.duration(estimate['seconds'])} ({estimate['basis']}), "
        f"{words.size(estimate['memory_bytes'])} of memory, {words.size(estimate['artifact_bytes'])} stored"
    )
