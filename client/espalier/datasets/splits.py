"""What every way in ends as: named splits of arrays, and the names that stand behind their labels."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espalier.errors import EspalierError

if TYPE_CHECKING:
    import numpy as np

NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
"""Split -> what folders and files of it are called."""


class DataError(EspalierError):
    """Data that cannot become a dataset: says which file, column or row, and what to do."""


@dataclass(frozen=True)
class Splits:
    """
    Attributes:
        arrays: split name -> (inputs (n, ...), targets (n,) or (n, m)); there is always a `train`.
        classes: the name of each label, where labels had names; they go into a safetensors file's metadata.
    """

    arrays: Mapping[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]
    classes: Sequence[str] | None = None

    def write(self, path: Path | str) -> Path:
        """As the file that `Client.upload_dataset` takes: safetensors, which the service maps instead of loading it,
        or npz, by the suffix of `path`. All of it is written, or nothing.

        Raises:
            DataError: another suffix, no train split, or what are not numbers.
        """
        path = Path(path)
        if "train" not in self.arrays:
            raise DataError(f"there is no train split, only {', '.join(self.arrays)}")
        named = {
            f"{split}.{part}": array
            for split, arrays in self.arrays.items()
            for part, array in zip(("inputs", "targets"), arrays, strict=True)
        }
        for key, array in named.items():
            if array.dtype.kind not in "buif":
                raise DataError(f"{key} has dtype {array.dtype}; make numbers of it")
        writers: dict[str, Callable[[Path, Any], None]] = {".safetensors": self._write_safetensors, ".npz": _write_npz}
        if path.suffix not in writers:
            raise DataError(f"{path.name}: end it in .safetensors or .npz")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.stem}.part{path.suffix}")
        try:
            writers[path.suffix](partial, named)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return path

    def _write_safetensors(self, path: Path, named: dict[str, Any]) -> None:
        numpy = library("numpy", "arrays")
        metadata = {"classes": json.dumps(list(self.classes))} if self.classes else None
        named = {key: numpy.ascontiguousarray(array) for key, array in named.items()}
        library("safetensors.numpy", "safetensors files").save_file(named, path, metadata)


def _write_npz(path: Path, named: dict[str, Any]) -> None:
    library("numpy", "arrays").savez(path, allow_pickle=False, **named)


def library(name: str, what: str) -> Any:
    """A package that only this kind of data needs.

    Raises:
        DataError: it is not installed; says how to.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise DataError(f'{what} need {error.name}: pip install "espalier[data]"') from error


def split_of(name: str) -> str | None:
    """The split that a folder or file of this name holds; None where the name says none."""
    return next((split for split, names in NAMES.items() if name.lower() in names), None)


def labelled(names: Mapping[str, Sequence[str]], classes: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Split -> names of classes, as labels 0, 1, ... in the order of `classes`.

    Raises:
        DataError: a name that train does not have.
    """
    numpy = library("numpy", "labels")
    index = {name: label for label, name in enumerate(classes)}
    for split, found in names.items():
        if strangers := sorted(set(found) - set(index)):
            raise DataError(f"{split} has the class {strangers[0]!r}, which train has not; train must have every class")
    return {split: numpy.array([index[name] for name in found], dtype="int64") for split, found in names.items()}
