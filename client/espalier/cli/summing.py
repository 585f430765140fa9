"""`espalier summary`: a job in markdown."""

from __future__ import annotations

import sys

import click

from espalier.cli.connecting import connected
from espalier.cli.ordering import JOB
from espalier.cli.output import Output
from espalier.client import Client
from espalier.summary import markdown


@click.command()
@JOB
@connected
def summary(client: Client, output: Output, job_id: str) -> None:
    """JOB in markdown, for a pull request or the summary of a CI run."""
    job, rounds = client.job(job_id), client.rounds(job_id)
    text = markdown(job, rounds)
    output.result({"object": "summary", "job": job_id, "markdown": text}, lambda: _write(text))


def _write(text: str) -> None:
    sys.stdout.write(text)
