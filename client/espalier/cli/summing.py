"""`espalier summary`: a job or a comparison in markdown."""

from __future__ import annotations

import sys

import click

from espalier.cli.connecting import connected
from espalier.cli.ordering import JOB
from espalier.cli.output import Output
from espalier.cli.references import is_comparison
from espalier.client import Client
from espalier.summary import markdown


@click.command()
@JOB
@connected
def summary(client: Client, output: Output, job_id: str) -> None:
    """JOB in markdown, for a pull request or the summary of a CI run; or a comparison (cmp_...)."""
    if is_comparison(job_id):
        kind, text = "comparison", client.comparison_summary(job_id)
    else:
        kind, text = "job", markdown(client.job(job_id), client.rounds(job_id))
    output.result({"object": "summary", kind: job_id, "markdown": text}, lambda: _write(text))


def _write(text: str) -> None:
    sys.stdout.write(text)
