"""Datasets of pictures by path: MNIST or Fashion-MNIST as npz or idx files, CIFAR-10 as npz or its binary version."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray

from pruning.data import Dataset, Split
from pruning.randomness import generator

Arrays = tuple[NDArray[numpy.uint8], NDArray[numpy.int64]]

_NPZ_NAMES = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train.inputs", "train.targets", "test.inputs", "test.targets"),
)
_IDX_STEMS = (("train-images", "train-labels"), ("t10k-images", "t10k-labels"))
_CIFAR_RECORD = 1 + 3 * 32 * 32


def load(path: Path, num_validation: int = 0, seed: int = 0) -> Dataset:
    """The pictures as they are stored, uint8 (n, channels, height, width).

    Args:
        path: an npz file, or a folder of idx files (.gz or not) or of CIFAR-10's .bin files.
        num_validation: training examples drawn by the seed and held out; 0 leaves that to the engine (10%, stratified).
    """
    (inputs, targets), (test_inputs, test_targets) = _read(path)
    train, test = _split(inputs, targets), _split(test_inputs, test_targets)
    validation = None
    if num_validation:
        order = torch.randperm(len(train), generator=generator(seed, "held out"))
        validation, train = train.take(order[:num_validation]), train.take(order[num_validation:])
    return Dataset(train, validation, test, int(train.targets.max()) + 1)


def _read(path: Path) -> tuple[Arrays, Arrays]:
    if path.is_file():
        with numpy.load(path) as arrays:
            names = next((names for names in _NPZ_NAMES if names[0] in arrays), None)
            if names is None:
                raise SystemExit(f"{path} has {', '.join(arrays)}; expected the arrays {', '.join(_NPZ_NAMES[0])}")
            a, b, c, d = (arrays[name] for name in names)
        return (a, b), (c, d)
    if (path / "test_batch.bin").is_file():
        return _cifar([path / f"data_batch_{i}.bin" for i in range(1, 6)]), _cifar([path / "test_batch.bin"])
    (train_images, train_labels), (test_images, test_labels) = _IDX_STEMS
    return (
        (_idx(path, train_images), _idx(path, train_labels).astype(numpy.int64)),
        (_idx(path, test_images), _idx(path, test_labels).astype(numpy.int64)),
    )


def _idx(folder: Path, stem: str) -> NDArray[numpy.uint8]:
    """LeCun's format: two zero bytes, type 8 (uint8), the number of axes, their lengths (big-endian), the bytes."""
    found = sorted(folder.glob(f"{stem}*"))
    if not found:
        raise SystemExit(f"{folder} has no {stem}*; expected an npz file, four idx files, or CIFAR-10's .bin files")
    raw = gzip.decompress(found[0].read_bytes()) if found[0].suffix == ".gz" else found[0].read_bytes()
    if raw[:3] != b"\0\0\x08":
        raise SystemExit(f"{found[0]} is no idx file of bytes")
    shape = [int.from_bytes(raw[4 * i : 4 * i + 4], "big") for i in range(1, 1 + raw[3])]
    return numpy.frombuffer(raw, numpy.uint8, count=math.prod(shape), offset=4 + 4 * raw[3]).reshape(shape)


def _cifar(files: list[Path]) -> Arrays:
    records = numpy.concatenate([numpy.fromfile(file, numpy.uint8).reshape(-1, _CIFAR_RECORD) for file in files])
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(numpy.int64)


def _split(inputs: NDArray[numpy.uint8], targets: NDArray[numpy.int64]) -> Split:
    if inputs.ndim == 3:
        inputs = inputs[:, None]
    elif inputs.shape[-1] in (1, 3):
        inputs = inputs.transpose(0, 3, 1, 2)
    pictures = torch.from_numpy(numpy.array(inputs, order="C"))
    return Split(pictures, torch.from_numpy(numpy.array(targets).reshape(-1).astype(numpy.int64)))
