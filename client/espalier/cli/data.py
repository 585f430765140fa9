"""`espalier dataset ...`: data of the usual kinds as one file, on the user's side."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from espalier.cli.connecting import printing
from espalier.cli.output import Output
from espalier.errors import EspalierError

OUT = click.option(
    "-o", "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help=".safetensors or .npz"
)
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
SIZE = click.option("--size", nargs=2, type=click.IntRange(min=1), metavar="HEIGHT WIDTH", help="Resize every image.")


@click.group()
def dataset() -> None:
    """Make one dataset file of what you have. Needs: pip install "espalier[data]"."""


def _written(output: Output, splits: Any, out: Path) -> None:
    path = splits.write(out)
    counts = {split: len(targets) for split, (_, targets) in splits.arrays.items()}
    document = {"object": "file", "path": str(path), "examples": counts}
    said = ", ".join(f"{split} {count:,}" for split, count in counts.items())
    output.result(document, lambda: output.line(f"{path}: {said}"))


@dataset.command()
@click.option("--train", nargs=2, type=FILE, required=True, metavar="INPUTS TARGETS", help="Two .npy files.")
@click.option("--validation", nargs=2, type=FILE, metavar="INPUTS TARGETS")
@click.option("--test", nargs=2, type=FILE, metavar="INPUTS TARGETS")
@OUT
@printing
def arrays(output: Output, /, out: Path, **files: tuple[Path, Path] | None) -> None:
    """NumPy arrays."""
    from espalier.datasets import Splits

    given = {split: pair for split, pair in files.items() if pair}
    _written(output, Splits({split: (_array(pair[0]), _array(pair[1])) for split, pair in given.items()}), out)


def _array(file: Path) -> Any:
    from espalier.datasets.splits import library

    try:
        return library("numpy", "arrays").load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise EspalierError(f"{file} is no .npy file of numbers: {error}") from error


@dataset.command()
@click.argument("folder", type=FOLDER)
@OUT
@printing
def idx(output: Output, folder: Path, out: Path) -> None:
    """MNIST and its kin: train-images-idx3-ubyte and the like, gzipped or not."""
    from espalier.datasets import from_idx

    _written(output, from_idx(folder), out)


@dataset.command()
@click.argument("folder", type=FOLDER)
@SIZE
@click.option("--mode", type=click.Choice(["L", "RGB"]), help="Grey or colour; left out, as the first image is.")
@OUT
@printing
def images(
    output: Output, folder: Path, size: tuple[int, int] | None, mode: Literal["L", "RGB"] | None, out: Path
) -> None:
    """A folder of images, one folder a class: flowers/train/rose/1.png."""
    from espalier.datasets import from_images

    _written(output, from_images(folder, size=size, mode=mode), out)


@dataset.command()
@click.argument("train", type=FILE)
@click.option("--validation", type=FILE)
@click.option("--test", type=FILE)
@click.option("--target", "targets", multiple=True, required=True, help="The column to predict; several times.")
@click.option("--input", "inputs", multiple=True, help="Columns to predict from; left out, all others.")
@OUT
@printing
def table(
    output: Output, /, train: Path, targets: tuple[str, ...], inputs: tuple[str, ...], out: Path, **others: Path | None
) -> None:
    """CSV (with a header line) or Parquet."""
    from espalier.datasets import from_table

    files = {"train": train, **{split: file for split, file in others.items() if file}}
    _written(output, from_table(files, target=targets[0] if len(targets) == 1 else targets, inputs=inputs or None), out)


@dataset.command()
@click.argument("folder", type=FOLDER)
@click.option("--target", help="The column to predict; left out, the one class label.")
@click.option("--input", "inputs", multiple=True, help="Columns to predict from; left out, all others.")
@SIZE
@OUT
@printing
def saved(
    output: Output, folder: Path, target: str | None, inputs: tuple[str, ...], size: tuple[int, int] | None, out: Path
) -> None:
    """A Hugging Face dataset that was saved to disk."""
    from espalier.datasets import from_saved

    _written(output, from_saved(folder, target=target, inputs=inputs or None, size=size), out)
