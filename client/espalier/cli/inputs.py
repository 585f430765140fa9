"""`espalier models|datasets ls|get|upload`, and `espalier strategies`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from espalier.cli import references, words
from espalier.cli.connecting import connected
from espalier.cli.output import Output
from espalier.cli.references import Shape
from espalier.client import Client

LIMIT = click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)


@click.group()
def models() -> None:
    """Networks that the service has."""


@click.group()
def datasets() -> None:
    """Data that the service has."""


def _list(output: Output, found: list[Any]) -> None:
    rows = [
        [
            row["id"],
            row["name"],
            row["status"],
            row["format"],
            words.size(row["size_bytes"]),
            row["created_at"][:19],
        ]
        for row in found
    ]
    columns = ["id", "name", "status", "format", "size", "created"]
    output.result({"object": "list", "data": found}, lambda: output.table(columns, rows))


@models.command("ls")
@LIMIT
@connected
def list_models(client: Client, output: Output, limit: int) -> None:
    """The latest ones."""
    _list(output, [row for row, _ in zip(client.models(limit=min(limit, 100)), range(limit), strict=False)])


@datasets.command("ls")
@LIMIT
@connected
def list_datasets(client: Client, output: Output, limit: int) -> None:
    """The latest ones."""
    _list(output, [row for row, _ in zip(client.datasets(limit=min(limit, 100)), range(limit), strict=False)])


@models.command("get")
@click.argument("model_id", metavar="MODEL")
@connected
def get_model(client: Client, output: Output, model_id: str) -> None:
    """One, with its layers: which can be pruned, by weight and by unit, and why others cannot."""
    model = client.model(model_id)

    def show() -> None:
        output.line(f"{model['id']} {model['name']}: {model['status']}")
        if model["error"]:
            output.line(model["error"]["message"])
        rows = [
            [
                str(layer["name"]), str(layer.get("type", "-")), f"{layer.get('num_weights', 0):,}",
                " ".join(layer.get("prunable") or []) or "no", str(layer.get("reason") or ""),
            ]
            for layer in model["layers"] or []
        ]  # fmt: skip
        output.table(["layer", "type", "weights", "prunable", ""], rows)

    output.result(model, show)


@datasets.command("get")
@click.argument("dataset_id", metavar="DATASET")
@connected
def get_dataset(client: Client, output: Output, dataset_id: str) -> None:
    """One, with its splits."""
    dataset = client.dataset(dataset_id)

    def show() -> None:
        output.line(f"{dataset['id']} {dataset['name']}: {dataset['status']}")
        if dataset["error"]:
            output.line(dataset["error"]["message"])
        rows = [
            [split, f"{about.get('num_examples', 0):,}", "x".join(map(str, about.get("input_shape") or []))]
            for split, about in (dataset["splits"] or {}).items()
        ]
        output.table(["split", "examples", "shape"], rows)

    output.result(dataset, show)


@models.command("upload")
@click.argument("model")
@click.option("--name")
@click.option("--architecture", help="Whose weights MODEL holds, if it is a .safetensors file.")
@click.option("--input-shape", type=Shape(), help="Of one example: 1,28,28.")
@click.option("--num-classes", type=click.IntRange(min=2))
@click.option("--tokens", is_flag=True, help="MODEL is code that takes whole numbers.")
@connected
def upload_model(client: Client, output: Output, /, model: str, **given: Any) -> None:
    """MODEL as `espalier prune` takes it. Waits until the service has validated it."""
    made = client.model(references.model_id(client, output, model, **given))
    output.result(made, lambda: output.line(made["id"]))


@datasets.command("upload")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--name")
@connected
def upload_dataset(client: Client, output: Output, file: Path, name: str | None) -> None:
    """A .npz or .safetensors FILE. Waits until the service has validated it."""
    made = references.upload_dataset(client, output, file, name)
    output.result(made, lambda: output.line(made["id"]))


@click.command()
@connected
def strategies(client: Client, output: Output) -> None:
    """Named recipes, for --strategy."""
    found = client.strategies()
    rows = [[row["name"], row["title"]] for row in found]
    output.result({"object": "list", "data": found}, lambda: output.table(["strategy", "what it does"], rows))
