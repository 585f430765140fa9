"""Data of the usual kinds as dataset files, which the service's own reader then reads."""

from __future__ import annotations

import csv
import gzip
import io
import struct

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from espalier.datasets import DataError, Splits, from_idx, from_images, from_saved, from_table
from PIL import Image

from pruning.formats.dataset_report import describe
from pruning.formats.datasets import read_dataset

PIXELS = np.random.default_rng(0)


def read(splits: Splits, folder, suffix="safetensors"):
    return read_dataset(splits.write(folder / f"out.{suffix}"), suffix)


def picture(path, shape=(4, 5, 3), image_format="PNG") -> np.ndarray:
    pixels = PIXELS.integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, image_format)
    return pixels


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_a_folder_of_images(suffix, tmp_path) -> None:
    dog = picture(tmp_path / "in" / "train" / "dog" / "b.png")
    cat = picture(tmp_path / "in" / "train" / "cat" / "a.png")
    other = picture(tmp_path / "in" / "val" / "dog" / "c.png")
    (tmp_path / "in" / "train" / "dog" / "notes.txt").write_text("not an image")
    splits = from_images(tmp_path / "in")
    assert splits.classes == ["cat", "dog"]
    dataset = read(splits, tmp_path, suffix)
    assert np.array_equal(dataset.train.inputs.numpy(), np.stack([cat, dog]).transpose(0, 3, 1, 2))
    assert dataset.train.targets.tolist() == [0, 1]
    assert np.array_equal(dataset.validation.inputs.numpy()[0], other.transpose(2, 0, 1))
    assert dataset.validation.targets.tolist() == [1]


def test_grey_images_have_one_channel_and_a_size_that_is_asked_for_is_given(tmp_path) -> None:
    grey = picture(tmp_path / "in" / "a" / "1.png", (6, 6))
    picture(tmp_path / "in" / "b" / "1.png", (6, 6))
    inputs, targets = from_images(tmp_path / "in").arrays["train"]
    assert np.array_equal(inputs[0, 0], grey)
    assert targets.tolist() == [0, 1]
    picture(tmp_path / "in" / "b" / "2.png", (9, 7, 3))
    assert from_images(tmp_path / "in", size=(8, 3)).arrays["train"][0].shape == (3, 1, 8, 3)
    assert from_images(tmp_path / "in", size=(8, 3), mode="RGB").arrays["train"][0].shape == (3, 3, 8, 3)


def broken_images(folder, fault: str) -> None:
    picture(folder / "train" / "a" / "1.png")
    if fault == "size":
        picture(folder / "train" / "a" / "2.png", (5, 5, 3))
    if fault == "image":
        (folder / "train" / "a" / "2.png").write_bytes(b"no image")
    if fault == "class":
        picture(folder / "test" / "b" / "1.png")
    if fault == "deep":
        Image.fromarray(np.full((4, 5), 4000, np.uint16)).save(folder / "train" / "a" / "2.png")
    if fault == "empty":
        (folder / "test").mkdir()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("size", r"2.png is 5x5, the first image 4x5; give size="),
        ("image", r"2.png is not a readable image"),
        ("class", r"test has the class 'b', which train has not"),
        ("deep", r"2.png has more than 8 bits a channel"),
        ("empty", r"no images of test"),
    ],
)
def test_images_that_cannot_be_read_are_named(fault, words, tmp_path) -> None:
    broken_images(tmp_path, fault)
    with pytest.raises(DataError, match=words):
        from_images(tmp_path)


def idx(array: np.ndarray, code: int) -> bytes:
    return struct.pack(">HBB", 0, code, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder) -> tuple[np.ndarray, np.ndarray]:
    images = PIXELS.integers(0, 256, (6, 3, 4), dtype=np.uint8)
    labels = np.array([0, 1, 2, 0, 1, 2], np.uint8)
    (folder / "train-images-idx3-ubyte").write_bytes(idx(images, 8))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(labels, 8))
    (folder / "t10k-images.idx3-ubyte.gz").write_bytes(gzip.compress(idx(images[:2], 8)))
    (folder / "t10k-labels.idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels[:2], 8)))
    return images, labels


def test_idx_files_under_their_usual_names(tmp_path) -> None:
    images, labels = write_idx(tmp_path)
    dataset = read(from_idx(tmp_path), tmp_path)
    assert np.array_equal(dataset.train.inputs.numpy(), images[:, None])
    assert dataset.train.targets.tolist() == labels.tolist()
    assert np.array_equal(dataset.test.inputs.numpy(), images[:2, None])


def test_idx_files_of_big_endian_numbers(tmp_path) -> None:
    values = np.arange(12, dtype=">f4").reshape(6, 2)
    (tmp_path / "values").write_bytes(idx(values, 0x0D))
    (tmp_path / "labels").write_bytes(idx(np.array([0, 1, 0, 1, 0, 1], ">i4"), 0x0C))
    dataset = read(from_idx({"train": (tmp_path / "values", tmp_path / "labels")}), tmp_path)
    assert dataset.train.inputs.flatten().tolist() == list(range(12))
    assert dataset.train.targets.tolist() == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("train-images-idx3-ubyte", lambda data: data[:-1], "its shape .6, 3, 4. is not"),
        ("train-images-idx3-ubyte", lambda data: b"PK" + data, "is not an idx file"),
        ("train-images-idx3-ubyte", lambda data: data[:9], "is not"),
        ("t10k-labels.idx1-ubyte.gz", lambda data: data[:-9], "cannot be read"),
        ("t10k-labels.idx1-ubyte.gz", None, "lies no file of its labels"),
        ("train-labels-idx1-ubyte", None, "lies no file of its labels"),
    ],
)
def test_idx_files_at_fault_are_named(name, change, words, tmp_path) -> None:
    write_idx(tmp_path)
    path = tmp_path / name
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=words):
        from_idx(tmp_path)


def table(path, columns: dict[str, list]):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
        return path
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    path.write_text(text.getvalue())
    return path


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tables_of_numbers_and_named_classes(suffix, tmp_path) -> None:
    columns = {
        "width": [1.5, 2.5, 3.5],
        "kind": ["rose", "ash", "rose"],
        "petals": [5, 0, 6],
        "wild": [True, False, True],
    }
    train = table(tmp_path / f"train.{suffix}", columns)
    test = table(tmp_path / f"test.{suffix}", {name: columns[name][:1] for name in reversed(columns)})
    splits = from_table({"train": train, "test": test}, target="kind")
    assert splits.classes == ["ash", "rose"]
    dataset = read(splits, tmp_path)
    assert dataset.train.inputs.tolist() == [[1.5, 5, 1], [2.5, 0, 0], [3.5, 6, 1]]
    assert dataset.test.inputs.tolist() == [[1.5, 5, 1]]
    assert dataset.train.targets.tolist() == [1, 0, 1]
    assert dataset.task == "classification"


def test_what_targets_are_decides_the_task(tmp_path) -> None:
    columns = {
        "x": [0.0, 1.0],
        "y": [0.5, 2.0],
        "a": [0, 1],
        "b": [1, 1],
        "t": [[1, 2, 3], [4, 5, 6]],
        "u": [[2, 3, 0]] * 2,
    }
    path = table(tmp_path / "t.parquet", columns)
    assert read(from_table(path, target="y", inputs=["x", "a"]), tmp_path).task == "regression"
    assert read(from_table(path, target=["a", "b"], inputs=["x"]), tmp_path).task == "multi_label"
    assert read(from_table(path, target=["x", "y"], inputs=["a"]), tmp_path).task == "regression"
    tokens = read(from_table(path, target="u", inputs=["t"]), tmp_path)
    assert tokens.task == "tokens"
    assert tokens.train.inputs.tolist() == columns["t"]
    assert describe(read(from_table(path, target="a", inputs=["t"]), tmp_path))["splits"]["train"]["class_counts"] == [
        1,
        1,
    ]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"x": [1.0, None, 2.0], "y": [0, 1, 0]}, "train, column 'x' is empty in row 2"),
        ({"x": ["low", "high"], "y": [0, 1]}, "column 'x' holds string, which is no number"),
        ({"x": [[1, 2], [3]], "y": [0, 1]}, "column 'x' has 1 values in row 2 and 2 in the first"),
        ({"x": [[1, 2], [3, None]], "y": [0, 1]}, "column 'x' has lists with empty places"),
        ({"x": [[1], [2]], "z": [1, 2], "y": [0, 1]}, "column 'x' holds lists; name it alone"),
        ({"x": [1, 2]}, "has no column 'y'; it has x"),
        ({"y": [1, 2]}, "has no columns beside the target's"),
    ],
)
def test_tables_at_fault_name_the_column_and_row(columns, words, tmp_path) -> None:
    with pytest.raises(DataError, match=words):
        from_table(table(tmp_path / "t.parquet", columns), target="y")


def test_files_that_are_no_tables_are_told(tmp_path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"t.parquet is not a readable table"):
        from_table(tmp_path / "t.parquet", target="y")
    with pytest.raises(DataError, match=r"none.csv is not a readable table"):
        from_table(tmp_path / "none.csv", target="y")


def test_datasets_saved_to_disk(tmp_path) -> None:
    datasets = pytest.importorskip("datasets")
    images = [Image.fromarray(PIXELS.integers(0, 256, (4, 4, 3), dtype=np.uint8)) for _ in range(4)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])})
    whole = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 1, 0]}, features=features)
    datasets.DatasetDict({"train": whole.select(range(3)), "test": whole.select([3])}).save_to_disk(tmp_path / "saved")
    splits = from_saved(tmp_path / "saved")
    assert splits.classes == ["no", "yes"]
    dataset = read(splits, tmp_path)
    assert np.array_equal(dataset.test.inputs[0].numpy(), np.asarray(images[3]).transpose(2, 0, 1))
    assert dataset.train.targets.tolist() == [0, 1, 1]
    assert from_saved(tmp_path / "saved", size=(2, 3)).arrays["train"][0].shape == (3, 3, 2, 3)


def test_saved_tokens_and_tables(tmp_path) -> None:
    datasets = pytest.importorskip("datasets")
    columns = {"input_ids": [[1, 2], [3, 4]], "text": ["a", "b"], "score": [0.5, 1.5]}
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "saved")
    splits = from_saved(tmp_path / "saved", target="score", inputs="input_ids")
    assert splits.arrays["train"][0].tolist() == columns["input_ids"]
    assert splits.arrays["train"][1].tolist() == [0.5, 1.5]
    with pytest.raises(DataError, match="0 class labels; name the target"):
        from_saved(tmp_path / "saved")
    with pytest.raises(DataError, match="is not a dataset saved to disk"):
        from_saved(tmp_path)


def test_what_cannot_be_written_leaves_nothing(tmp_path) -> None:
    splits = Splits({"train": (np.zeros((2, 2)), np.array([object(), None]))})
    with pytest.raises(DataError, match=r"train.targets has dtype object"):
        splits.write(tmp_path / "out.safetensors")
    splits = Splits({"train": (np.zeros((2, 2)), np.zeros(2))})
    with pytest.raises(DataError, match=r"end it in .safetensors or .npz"):
        splits.write(tmp_path / "out.zip")
    with pytest.raises(DataError, match="there is no train split, only test"):
        Splits({"test": splits.arrays["train"]}).write(tmp_path / "out.npz")
    assert list(tmp_path.iterdir()) == []
