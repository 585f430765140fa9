"""idx files, the format of MNIST and its kin: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, gzipped or not.

Layout: two zero bytes, a type, the number of dimensions, each dimension as a big-endian uint32, then the numbers, which
are big-endian, too (http://yann.lecun.com/exdb/mnist, "the IDX file format").
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espalier.datasets.splits import DataError, Splits, library

if TYPE_CHECKING:
    import numpy as np

DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
STEMS = {"train": ("train",), "validation": ("validation", "val"), "test": ("t10k", "test")}

Pair = tuple[Path | str, Path | str]


def from_idx(files: Path | str | Mapping[str, Pair]) -> Splits:
    """Read idx files: a folder that holds them under their usual names, or split name -> (images, labels).

    Images (n, height, width) get the channel that convolutions want: (n, 1, height, width).

    Raises:
        DataError: names the file at fault.
    """
    pairs = files if isinstance(files, Mapping) else _pairs(Path(files))
    return Splits(
        {split: (_images(read_idx(images)), _labels(read_idx(labels))) for split, (images, labels) in pairs.items()}
    )


def read_idx(path: Path | str) -> np.ndarray[Any, Any]:
    """One idx file, gzipped or not, as an array in this machine's byte order.

    Raises:
        DataError: it is not one, is cut off, or goes on after its end.
    """
    numpy, path = library("numpy", "idx files"), Path(path)
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error})") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in DTYPES:
        raise DataError(f"{path} is not an idx file: it does not begin as one")
    dtype, begin = numpy.dtype(DTYPES[data[2]]), 4 + 4 * data[3]
    shape = [int.from_bytes(data[at : at + 4], "big") for at in range(4, begin, 4)]
    if len(data) != begin + dtype.itemsize * prod(shape):
        raise DataError(f"{path} holds {len(data)} bytes, which its shape {shape} is not; it may be cut off")
    array = numpy.frombuffer(data, dtype, offset=begin).reshape(shape)
    return array.astype(dtype.newbyteorder("="))  # type: ignore[no-any-return]


def _images(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array[:, None] if array.ndim == 3 else array


def _labels(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.astype("int64") if array.dtype.kind in "ui" else array


def _pairs(folder: Path) -> dict[str, Pair]:
    pairs: dict[str, Pair] = {}
    for split, stems in STEMS.items():
        images, labels = (_named(folder, stems, kind) for kind in ("images", "labels"))
        if images and labels:
            pairs[split] = (images, labels)
        elif there := images or labels:
            raise DataError(f"{folder}: beside {there.name} lies no file of its {'labels' if images else 'images'}")
    if "train" not in pairs:
        raise DataError(
            f"{folder} has no train-images-idx3-ubyte and train-labels-idx1-ubyte; or name the files yourself"
        )
    return pairs


def _named(folder: Path, stems: tuple[str, ...], kind: str) -> Path | None:
    """Names vary: with a dot or a dash before idx, gzipped or not."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    found = sorted(path for stem in stems for path in folder.glob(f"{stem}-{kind}[-.]idx*") if path.is_file())
    return found[0] if found else None
