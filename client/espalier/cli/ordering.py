"""`espalier jobs ...`, and `espalier watch`."""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import CompletionItem

from espalier.cli import settings, words
from espalier.cli.comparing import watch_comparison
from espalier.cli.comparison_tables import state_of
from espalier.cli.connecting import connected
from espalier.cli.output import Output
from espalier.cli.pruning import show_verdict
from espalier.cli.references import is_comparison
from espalier.cli.watching import watch_to_end
from espalier.client import Client
from espalier.errors import EspalierError
from espalier.shapes import Job


def _recent(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of the latest jobs, for the shell; of a service that is away, none."""
    try:
        where = settings.resolved(ctx.params.get("url"), ctx.params.get("api_key"))
        with Client(*where, patience_seconds=0) as client:
            jobs = [job for job, _ in zip(client.jobs(limit=20), range(20), strict=False)]
    except EspalierError:
        return []
    return [CompletionItem(job["id"], help=words.state(job)) for job in jobs if job["id"].startswith(incomplete)]


JOB = click.argument("job_id", metavar="JOB", shell_complete=_recent)


@click.group()
def jobs() -> None:
    """List, read and order about jobs."""


@jobs.command()
@click.option("--status", multiple=True, help="Only these; several times.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Only with this label.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@connected
def ls(client: Client, output: Output, status: tuple[str, ...], labels: tuple[str, ...], limit: int) -> None:
    """The latest jobs."""
    filters: dict[str, Any] = {"metadata": dict(label.split("=", 1) for label in labels if "=" in label)}
    if status:
        filters["status"] = list(status)
    found = [job for job, _ in zip(client.jobs(**filters, limit=min(limit, 100)), range(limit), strict=False)]
    rows = [
        [job["id"], words.state(job), str(job["recipe"].get("strategy") or "-"), job["created_at"][:19]]
        for job in found
    ]
    output.result(
        {"object": "list", "data": found}, lambda: output.table(["job", "state", "strategy", "created"], rows)
    )


@jobs.command()
@JOB
@connected
def get(client: Client, output: Output, job_id: str) -> None:
    """One job and its rounds so far."""
    job = client.job(job_id)
    rounds = client.rounds(job_id)

    def show() -> None:
        output.line(f"{job_id}: {words.state(job)}")
        if job["error"]:
            output.line(f"{job['error']['code']}: {job['error']['message']}")
        metric = words.metric_of(rounds)
        output.table(words.columns(metric), words.rows(job, rounds, metric))

    output.result({**job, "rounds": rounds}, show)


@click.command()
@JOB
@click.option("--timeout", "timeout_seconds", type=float, metavar="SECONDS", help="Watch so long; the job goes on.")
@click.option("--cancel-on-interrupt", is_flag=True, help="Ctrl-C cancels the job; else it goes on.")
@connected
def watch(client: Client, output: Output, job_id: str, timeout_seconds: float | None, cancel_on_interrupt: bool) -> int:
    """Sparsity and accuracy as they come, until the job ends; then as `prune`. A comparison (cmp_...) as `compare`."""
    if is_comparison(job_id):
        return watch_comparison(
            client, output, lambda: client.comparison(job_id), timeout_seconds=timeout_seconds,
            cancel_on_interrupt=cancel_on_interrupt, out=None,
        )  # fmt: skip
    job, code = watch_to_end(
        client,
        output,
        lambda: client.job(job_id),
        timeout_seconds=timeout_seconds,
        cancel_on_interrupt=cancel_on_interrupt,
    )
    output.result(job, lambda: show_verdict(client, output, job, []))
    return code


jobs.add_command(watch)


def _say(output: Output, job: Job) -> None:
    output.result(job, lambda: output.line(f"{job['id']}: {words.state(job)}"))


@jobs.command()
@JOB
@connected
def cancel(client: Client, output: Output, job_id: str) -> None:
    """End it; its completed rounds are kept. Of a comparison (cmp_...): all of its jobs."""
    if is_comparison(job_id):
        comparison = client.cancel_comparison(job_id)
        output.result(comparison, lambda: output.line(f"{job_id}: {state_of(comparison)}"))
        return
    _say(output, client.cancel(job_id))


@jobs.command()
@JOB
@connected
def pause(client: Client, output: Output, job_id: str) -> None:
    """Free its worker; `resume` goes on from there."""
    _say(output, client.pause(job_id))


@jobs.command()
@JOB
@connected
def resume(client: Client, output: Output, job_id: str) -> None:
    """Queue a paused job again."""
    _say(output, client.resume(job_id))


@jobs.command()
@JOB
@connected
def retry(client: Client, output: Output, job_id: str) -> None:
    """A new job, asked for the same as one that has ended."""
    _say(output, client.retry(job_id))
