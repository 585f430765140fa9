"""The command line: `espalier`, or `python -m espalier`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

import click

from espalier.cli.comparing import compare
from espalier.cli.data import dataset
from espalier.cli.exits import Exit
from espalier.cli.inputs import datasets, models, strategies
from espalier.cli.interrupts import heard
from espalier.cli.local import completion, export, serve
from espalier.cli.login import login
from espalier.cli.ordering import jobs, watch
from espalier.cli.pruning import prune
from espalier.cli.results import download, verify
from espalier.cli.summing import summary
from espalier.version import VERSION


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="espalier")
def cli() -> None:
    """Prune neural networks: upload, train and prune round by round, download, and end with a verdict.

    \b
    Ends with  0 passed         1 gate failed    2 usage     3 job failed
               4 canceled or timed out           5 gave up waiting, the job goes on
               6 the service or the key, after trying again
    """


for command in (prune, watch, jobs, compare, download, verify, export, dataset, models, datasets, strategies):
    cli.add_command(command)
for command in (summary, serve, login, completion):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """What the process ends with: `Exit`."""
    warnings.showwarning = lambda message, *_args, **_more: click.echo(f"note: {message}", err=True)
    try:
        with heard():
            ended = cli.main(arguments, prog_name="espalier", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return Exit.USAGE
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return Exit.INTERRUPTED
    return ended if isinstance(ended, int) else Exit.PASSED


def run() -> None:
    sys.exit(main())
