"""The readers of the reproduction's data: npz, idx (packed or not) and CIFAR-10's binary version say the same."""

from __future__ import annotations

import gzip

import numpy
import pytest
import torch

from benchmarks.reproduce import images

RANDOM = numpy.random.default_rng(0)
TRAIN = RANDOM.integers(0, 256, (20, 5, 4), dtype=numpy.uint8)
TEST = RANDOM.integers(0, 256, (6, 5, 4), dtype=numpy.uint8)
LABELS, TEST_LABELS = numpy.arange(20, dtype=numpy.uint8) % 10, numpy.arange(6, dtype=numpy.uint8)


def idx(array: numpy.ndarray) -> bytes:
    lengths = b"".join(length.to_bytes(4, "big") for length in array.shape)
    return b"\0\0\x08" + bytes([array.ndim]) + lengths + array.tobytes()


def test_idx_files_and_npz_are_the_same(tmp_path) -> None:
    numpy.savez(tmp_path / "a.npz", x_train=TRAIN, y_train=LABELS, x_test=TEST, y_test=TEST_LABELS)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(TRAIN)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(TEST))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(TEST_LABELS))
    one, other = images.load(tmp_path / "a.npz"), images.load(tmp_path)
    assert one.train.inputs.shape == (20, 1, 5, 4)
    assert one.train.targets.dtype == torch.int64
    for split in ("train", "test"):
        assert torch.equal(getattr(one, split).inputs, getattr(other, split).inputs)
        assert torch.equal(getattr(one, split).targets, getattr(other, split).targets)


def test_validation_is_held_out_by_the_seed(tmp_path) -> None:
    numpy.savez(tmp_path / "a.npz", x_train=TRAIN, y_train=LABELS, x_test=TEST, y_test=TEST_LABELS)
    one, same, other = (images.load(tmp_path / "a.npz", num_validation=5, seed=seed) for seed in (0, 0, 1))
    assert (len(one.train), len(one.validation)) == (15, 5)
    assert torch.equal(one.validation.inputs, same.validation.inputs)
    assert not torch.equal(one.validation.inputs, other.validation.inputs)


def test_cifar_is_read_as_channels_first(tmp_path) -> None:
    picture = RANDOM.integers(0, 256, 3072, dtype=numpy.uint8)
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        (tmp_path / f"{name}.bin").write_bytes(bytes([i]) + picture.tobytes())
    dataset = images.load(tmp_path)
    assert dataset.train.targets.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(dataset.test.inputs[0], torch.from_numpy(picture.reshape(3, 32, 32)))


def test_what_is_no_dataset_says_so(tmp_path) -> None:
    with pytest.raises(SystemExit, match="has no train-images"):
        images.load(tmp_path)
    numpy.savez(tmp_path / "a.npz", x=TRAIN)
    with pytest.raises(SystemExit, match="x_train"):
        images.load(tmp_path / "a.npz")
