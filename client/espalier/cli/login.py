"""`espalier login`: the service's URL and a key, kept for this user."""

from __future__ import annotations

import sys

import click

from espalier.cli import settings
from espalier.cli.connecting import printing
from espalier.cli.output import Output
from espalier.client import Client
from espalier.errors import ApiError


@click.command()
@click.option("--url", envvar="ESPALIER_URL", prompt="URL of the service", default="http://127.0.0.1:8000")
@click.option("--api-key", help="Left out, it is asked for, or read from stdin where that is no terminal.")
@printing
def login(output: Output, url: str, api_key: str | None) -> None:
    """Check a key, and keep it and the URL in a file that only you can read."""
    key = api_key or (click.prompt("API key", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline())
    with Client(url, key.strip(), patience_seconds=5) as client:
        try:
            client.capabilities()
        except ApiError as error:
            if error.code != "insufficient_scope":  # a key that may do something else is a key
                raise
    file = settings.keep(url, key.strip())
    output.result({"object": "login", "url": url, "file": str(file)}, lambda: output.line(f"kept in {file}"))
