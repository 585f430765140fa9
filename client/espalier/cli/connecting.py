"""What all commands share: the options that say how to print, where the service is, and how a failure ends."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

import click

from espalier.cli import settings
from espalier.cli.exits import Exit
from espalier.cli.output import Output
from espalier.client import Client
from espalier.errors import EspalierError

P = ParamSpec("P")


def printing(command: Callable[Concatenate[Output, P], int | None]) -> Callable[..., int]:
    """Adds --output; the command is handed an `Output`, and may return what the process ends with."""

    @click.option(
        "--output", type=click.Choice(["text", "json"]), default="text", help="json: one object on stdout, no more."
    )
    @wraps(command)
    def call(*args: Any, output: str, **kwargs: Any) -> int:
        shown = Output(output == "json")
        try:
            return command(shown, *args, **kwargs) or Exit.PASSED
        except (EspalierError, OSError) as error:
            return shown.failed(error)

    return call


def connected(command: Callable[Concatenate[Client, Output, P], int | None]) -> Callable[..., int]:
    """As `printing`, and adds where the service is; the command is handed a `Client`, too."""

    @click.option("--url", help="Of the service. [ESPALIER_URL]")
    @click.option("--api-key", help="Seen by others on this machine; better: [ESPALIER_API_KEY], espalier login.")
    @click.option(
        "--patience", type=click.FloatRange(min=0), default=60, show_default=True, metavar="SECONDS",
        help="How long to try again while the service is away.",
    )  # fmt: skip
    @printing
    @wraps(command)
    def call(
        output: Output, /, *args: Any, url: str | None, api_key: str | None, patience: float, **kwargs: Any
    ) -> int | None:
        with settings.client_of(url, api_key, patience) as client:
            return command(client, output, *args, **kwargs)

    return call
