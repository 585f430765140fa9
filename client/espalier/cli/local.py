"""What needs no service: `espalier export`, `serve`, `completion`."""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from espalier.cli import references
from espalier.cli.connecting import printing
from espalier.cli.exits import Exit
from espalier.cli.output import Output
from espalier.cli.references import Shape
from espalier.errors import EspalierError

NO_SERVER = (
    "the server is not installed here. Beside its source: pip install '.[embedded]'; or run it elsewhere, as "
    "docs/deploy.md says, and name it with --url or ESPALIER_URL"
)


@click.command()
@click.argument("code", metavar="CODE")
@click.option("--input-shape", type=Shape(), required=True, help="Of one example: 1,28,28.")
@click.option("--tokens", is_flag=True, help="It takes whole numbers (int64) instead of float32.")
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="By default NAME.pt2.")
@printing
def export(output: Output, code: str, input_shape: tuple[int, ...], tokens: bool, out: Path | None) -> None:
    """A network out of your own code, as one file. CODE is file.py:name or package.module:name: a module, or a class or
    function that makes one. It runs here; the service is sent its operators and weights, never the source."""
    if ":" not in code:
        raise click.UsageError(f"{code!r} names no module; write file.py:name or package.module:name")
    path = out or Path(f"{code.rpartition(':')[2]}.pt2")
    references.export(code, input_shape, tokens, path)
    output.result({"object": "file", "path": str(path)}, lambda: output.line(str(path)))


@click.command()
@click.option("--host", help="By default 127.0.0.1. [ESPALIER_HOST]")
@click.option("--port", type=click.IntRange(0, 65535), help="By default 8000; 0: a free one. [ESPALIER_PORT]")
@click.option("--data-dir", type=click.Path(file_okay=False), help="By default ./var. [ESPALIER_DATA_DIR]")
@printing
def serve(output: Output, host: str | None, port: int | None, data_dir: str | None) -> int:  # noqa: ARG001
    """Run the whole service on this machine, until Ctrl-C."""
    for name, value in (("HOST", host), ("PORT", port), ("DATA_DIR", data_dir)):
        if value is not None:
            os.environ[f"ESPALIER_{name}"] = str(value)
    found = entry_points(group="console_scripts", name="espalier-server")
    try:
        (entry,) = found
        run = entry.load()
    except (ValueError, ImportError) as error:
        raise EspalierError(NO_SERVER) from error
    try:
        run()
    except SystemExit as end:
        if isinstance(end.code, str):
            raise EspalierError(end.code) from end
        return end.code or Exit.PASSED
    return Exit.PASSED


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """A script for your shell. bash: eval "$(espalier completion bash)" in ~/.bashrc; zsh the same in ~/.zshrc; fish:
    espalier completion fish > ~/.config/fish/completions/espalier.fish"""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "espalier", "_ESPALIER_COMPLETE").source())
