"""What MODEL and DATA stand for: an id, a file that is uploaded, code that is exported, or an architecture's name."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from zipfile import BadZipFile

import click

from espalier.cli import words
from espalier.cli.code import load_module
from espalier.cli.output import Output
from espalier.client import Client
from espalier.exporting import export_model
from espalier.shapes import Dataset, Model

_ID = re.compile(r"(mdl|art|ds)_[0-9a-z]+")


class Shape(click.ParamType[tuple[int, ...]]):
    """1,28,28"""

    name = "shape"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(size) for size in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no shape; give the sizes of one example, such as 1,28,28", param, ctx)


def is_comparison(given: str) -> bool:
    return given.startswith("cmp_")


def model_id(
    client: Client,
    output: Output,
    given: str,
    *,
    architecture: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    num_classes: int | None = None,
    tokens: bool = False,
    data: str | None = None,
    name: str | None = None,
) -> str:
    """Uploads it where it is not an id already. `data` may be a local file: exporting takes the shape from it."""
    if _ID.fullmatch(given):
        return given
    if Path(given).is_file():
        return _upload_model(client, output, Path(given), architecture, input_shape, num_classes, name)["id"]
    if ":" in given:
        shape = input_shape or (_shape_of(data) if data else None)
        if shape is None:
            raise click.UsageError("exporting needs the shape of one example: --input-shape 1,28,28")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{given.rpartition(':')[2]}.pt2"
            export(given, shape, tokens, file)
            return _upload_model(client, output, file, None, None, None, name)["id"]
    known = client.capabilities()["architectures"]
    if given not in known:
        raise click.UsageError(
            f"MODEL is {given!r}: no file here, no id (mdl_...), no code (file.py:name or package.module:name) and no "
            f"architecture ({', '.join(known)})"
        )
    model = client.upload_model(
        b"", architecture=given, format="architecture", name=name or given, input_shape=input_shape,
        num_classes=num_classes,
    )  # fmt: skip
    return model["id"]


def dataset_id(client: Client, output: Output, given: str, name: str | None = None) -> str:
    if _ID.fullmatch(given):
        return given
    file = Path(given)
    if file.is_dir() or (file.is_file() and file.suffix not in (".npz", ".safetensors")):
        raise click.UsageError(f"make one file of {given} first: see `espalier dataset --help`")
    if not file.is_file():
        raise click.UsageError(f"DATA is {given!r}, which is no file here and no id (ds_...)")
    return upload_dataset(client, output, file, name)["id"]


def upload_dataset(client: Client, output: Output, file: Path, name: str | None) -> Dataset:
    with output.transfer(f"uploading {file.name} ({words.size(file.stat().st_size)})") as progress:
        return client.upload_dataset(file, name=name, progress=progress)


def export(code: str, input_shape: tuple[int, ...], tokens: bool, file: Path) -> None:
    module = load_module(code)
    import torch

    example = torch.zeros((2, *input_shape), dtype=torch.int64 if tokens else torch.float32)
    export_model(module, example, file)


def _upload_model(
    client: Client,
    output: Output,
    file: Path,
    architecture: str | None,
    input_shape: tuple[int, ...] | None,
    num_classes: int | None,
    name: str | None,
) -> Model:
    with output.transfer(f"uploading {file.name} ({words.size(file.stat().st_size)})") as progress:
        return client.upload_model(
            file, architecture=architecture, input_shape=input_shape, num_classes=num_classes, name=name,
            progress=progress,
        )  # fmt: skip


def _shape_of(data: str) -> tuple[int, ...] | None:
    """Of one example of an npz file, by its head alone."""
    if not data.endswith(".npz") or not Path(data).is_file():
        return None
    import numpy

    try:
        with numpy.load(data, allow_pickle=False) as arrays:
            return tuple(int(size) for size in arrays["train.inputs"].shape[1:])
    except (KeyError, ValueError, BadZipFile):
        return None
