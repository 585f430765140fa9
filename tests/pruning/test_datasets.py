from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import torch

from pruning.formats.dataset_report import describe
from pruning.formats.datasets import read_dataset
from pruning.formats.errors import FormatError


def arrays(**changes) -> dict[str, np.ndarray]:
    good = {
        "train.inputs": np.zeros((6, 1, 2, 2), np.uint8),
        "train.targets": np.array([0, 1, 2, 0, 1, 2]),
        "test.inputs": np.ones((2, 1, 2, 2), np.uint8),
        "test.targets": np.array([0, 1], np.uint8),
    }
    changed = good | {key.replace("_", "."): value for key, value in changes.items()}
    return {key: value for key, value in changed.items() if value is not None}


def write(path, format, contents) -> None:
    if format == "npz":
        np.savez_compressed(path, **contents)
    else:
        safetensors.numpy.save_file(contents, path)


@pytest.mark.parametrize("format", ["npz", "safetensors"])
def test_a_dataset_is_read_as_it_is_and_described(format, tmp_path) -> None:
    path = tmp_path / f"data.{format}"
    write(path, format, arrays())
    dataset = read_dataset(path, format)
    assert dataset.train.inputs.dtype == torch.uint8
    assert dataset.test.targets.dtype == torch.int64
    assert dataset.validation is None
    described = json.loads(json.dumps(describe(dataset)))
    assert list(described["splits"]) == ["train", "test"]
    assert described["splits"]["test"] == {
        "num_examples": 2,
        "input_shape": [1, 2, 2],
        "input_dtype": "uint8",
        "input_mean": [1.0],
        "input_std": [0.0],
        "task": "classification",
        "target_shape": [],
        "target_dtype": "int64",
        "num_classes": 3,
        "class_counts": [1, 1, 0],
    }


def test_other_layouts_of_the_same_numbers_are_read(tmp_path) -> None:
    path = tmp_path / "data.npz"
    values = np.arange(24, dtype=">f8").reshape(6, 1, 2, 2)
    np.savez(path, **arrays(train_inputs=np.asfortranarray(values), test_inputs=values[:2]))
    dataset = read_dataset(path, "npz")
    assert dataset.train.inputs.dtype == torch.float32
    assert dataset.train.inputs.flatten().tolist() == list(range(24))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.float16])
def test_statistics_are_of_the_inputs_as_they_are(dtype, tmp_path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1100, 3, 2, 2)).astype(dtype)
    np.savez(tmp_path / "d.npz", **{"train.inputs": images, "train.targets": np.arange(1100) % 3})
    train = describe(read_dataset(tmp_path / "d.npz", "npz"))["splits"]["train"]
    assert train["input_mean"] == pytest.approx(images.astype(float).mean((0, 2, 3)).tolist())
    assert train["input_std"] == pytest.approx(images.astype(float).std((0, 2, 3)).tolist())
    rows = images.reshape(1100, -1)
    np.savez(tmp_path / "d.npz", **{"train.inputs": rows, "train.targets": np.arange(1100) % 3})
    train = describe(read_dataset(tmp_path / "d.npz", "npz"))["splits"]["train"]
    assert (train["input_mean"], train["input_std"]) == pytest.approx(
        (rows.astype(float).mean(), rows.astype(float).std())
    )


def test_tokens_have_no_statistics(tmp_path) -> None:
    np.savez(tmp_path / "d.npz", **{"train.inputs": np.ones((4, 3), int), "train.targets": np.array([0, 1, 0, 1])})
    train = describe(read_dataset(tmp_path / "d.npz", "npz"))["splits"]["train"]
    assert train["input_mean"] is train["input_std"] is None


NAN = np.zeros((6, 1, 2, 2), np.float32)
NAN[4, 0, 1, 1] = np.nan
REFUSED = {
    "no train": ({"train_inputs": None, "train_targets": None}, "train.inputs: is missing"),
    "inputs alone": ({"test_targets": None}, "test.targets: is missing"),
    "unknown": ({"trian_inputs": np.zeros(3)}, "trian.inputs: is not a key"),
    "lengths": ({"train_targets": np.array([0, 1, 2])}, "train.targets: has 3 labels for 6 examples"),
    "nan": ({"train_inputs": NAN, "test_inputs": NAN[:2]}, "train.inputs: example 4 holds NaN"),
    "too large": ({"train_inputs": np.full((6, 1), 1e300)}, "train.inputs: example 0 holds NaN or infinity"),
    "negative": ({"train_targets": np.array([0, 1, 2, 0, 1, -1])}, "train.targets: has labels from -1"),
    "huge": ({"train_targets": np.array([0, 1, 2, 0, 1, 10**12])}, "train.targets: has labels from 0 to"),
    "unsigned": ({"train_targets": np.array([0, 1, 2, 0, 1, 2**64 - 1], np.uint64)}, "train.targets: has labels"),
    "numbers and labels": ({"train_targets": np.arange(6.0)}, "test.targets: is torch.int64 of shape ()"),
    "bool labels": ({"train_targets": np.arange(6) > 2}, "train.targets: has dtype torch.bool"),
    "nan targets": ({"train_targets": np.array([0, np.nan, 0, 0, 0, 0])}, "train.targets: example 1 has NaN"),
    "flags of 2": ({"train_targets": np.full((6, 2), 2, np.uint8)}, "train.targets: has the value 2"),
    "cube": ({"train_targets": np.zeros((6, 2, 2))}, "train.targets: has shape (6, 2, 2)"),
    "one-hot": ({"train_targets": np.eye(6, dtype=np.int64)}, "train.targets: has shape"),
    "empty": ({"test_inputs": np.zeros((0, 1, 2, 2), np.uint8), "test_targets": np.zeros(0, np.int64)}, "test.inputs"),
    "new label": ({"test_targets": np.array([0, 3])}, "test.targets: has label 3"),
    "shapes": ({"test_inputs": np.zeros((2, 1, 2, 3), np.uint8)}, "test.inputs: examples have shape"),
    "dtypes": ({"test_inputs": np.zeros((2, 1, 2, 2), np.float32)}, "test.inputs: has dtype"),
    "int16 inputs": ({"train_inputs": np.zeros((6, 1, 2, 2), np.int16)}, "train.inputs: has dtype torch.int16"),
}


@pytest.mark.parametrize("format", ["npz", "safetensors"])
@pytest.mark.parametrize(("changes", "said"), REFUSED.values(), ids=REFUSED)
def test_refusals_name_the_key_and_the_remedy(changes, said, format, tmp_path) -> None:
    path = tmp_path / "data"
    with path.open("wb") as file:
        write(file, "npz", arrays(**changes)) if format == "npz" else file.write(
            safetensors.numpy.save(arrays(**changes))
        )
    with pytest.raises(FormatError) as caught:
        read_dataset(path, format)
    assert str(caught.value).startswith(said)
    assert ";" in str(caught.value), "and the remedy"


TOKENS = np.array([[0, 5, 2], [1, 7, -100]])
TASKS = {
    "one number": (np.zeros((2, 4), np.float32), np.array([0.5, 2.0]), "regression", [], None, None),
    "numbers": (np.zeros((2, 4), np.float32), np.array([[0.5, 1], [0, 1]]), "regression", [2], None, None),
    "flags": (np.zeros((2, 4), np.uint8), np.array([[0, 1], [1, 1]], np.uint8), "multi_label", [2], 2, [1, 2]),
    "bool flags": (np.zeros((2, 4), np.uint8), np.array([[0, 1], [1, 1]], bool), "multi_label", [2], 2, [1, 2]),
    "float flags": (np.zeros((2, 4), np.uint8), np.array([[0, 1], [1, 1.0]]), "multi_label", [2], 2, [1, 2]),
    "tokens": (np.abs(TOKENS), TOKENS, "tokens", [3], 8, None),
    "class of tokens": (np.abs(TOKENS), np.array([0, 1]), "classification", [], 2, [1, 1]),
}


@pytest.mark.parametrize("format", ["npz", "safetensors"])
@pytest.mark.parametrize(("inputs", "targets", "task", "shape", "classes", "counts"), TASKS.values(), ids=TASKS)
def test_targets_say_the_task(inputs, targets, task, shape, classes, counts, format, tmp_path) -> None:
    path = tmp_path / f"data.{format}"
    write(path, format, {"train.inputs": inputs, "train.targets": targets})
    split = json.loads(json.dumps(describe(read_dataset(path, format))))["splits"]["train"]
    assert (split["task"], split["target_shape"], split["num_classes"]) == (task, shape, classes)
    assert split["class_counts"] == counts


def test_numbers_that_only_here_are_all_0_or_1_are_numbers(tmp_path) -> None:
    path = tmp_path / "data.npz"
    inputs, flags = np.zeros((2, 4), np.float32), np.eye(2)
    write(
        path,
        "npz",
        {f"{s}.inputs": inputs for s in ("train", "test")} | {"train.targets": flags, "test.targets": flags / 2},
    )
    assert read_dataset(path, "npz").task == "regression"


@pytest.mark.parametrize(
    ("inputs", "targets", "said"),
    [
        (TOKENS[:, :2], TOKENS, "has shape"),
        (np.abs(TOKENS), np.full((2, 3), -100), "is -100 throughout"),
        (np.abs(TOKENS), TOKENS - 3, "has tokens from -"),
        (np.abs(TOKENS), TOKENS + 10**7, "has tokens from"),
    ],
)
def test_tokens_that_are_none(inputs, targets, said, tmp_path) -> None:
    path = tmp_path / "data.npz"
    write(path, "npz", {"train.inputs": inputs, "train.targets": targets})
    with pytest.raises(FormatError, match=said):
        read_dataset(path, "npz")


def npz_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def npy_of(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_hostile_npz_files_are_refused(tmp_path) -> None:
    path = tmp_path / "data.npz"
    lying = npy_of(np.zeros((6, 4), np.uint8)).replace(b"(6, 4)", b"(9**9,)"[:6])
    huge = npy_of(np.zeros((6, 4), np.uint8)).replace(b"'shape': (6, 4), }  ", b"'shape': (6, 4000000000), }")
    flipped = bytearray(npz_of({"train.inputs.npy": npy_of(np.arange(1200))}))
    flipped[1500:1520] = b"\xff" * 20
    for content, said in (
        (npz_of({"train.inputs.npy": npy_of(np.array([Bomb()]), allow_pickle=True)}), "Python objects"),
        (npz_of({"train.inputs.npy": npy_of(np.array(["text"]))}), "has dtype <U4"),
        (npz_of({"train.inputs.npy": npy_of(np.zeros(9))[:-1]}), "cut off or says a false shape"),
        (npz_of({"train.inputs.npy": lying}), "is not an array"),
        (npz_of({"train.inputs.npy": huge}), "is not an array|false shape"),
        (npz_of({"train.inputs.npy": b"hello"}), "is not an array"),
        (npz_of({"train.inputs.npy": npy_of(np.zeros(5000))}), "takes 40128 bytes uncompressed, more than 10000"),
        (npz_of({})[:10], "not a readable npz"),
        (flipped, "not a readable npz"),
        (b"hello", "not a readable npz"),
        (b"", "not a readable npz"),
        (npz_of({}), "train.inputs: is missing"),
    ):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=said):
            read_dataset(path, "npz", max_npz_bytes=10_000)


def test_damaged_safetensors_are_refused(tmp_path) -> None:
    path = tmp_path / "data"
    content = safetensors.numpy.save(arrays())
    for damaged in (b"", content[:-1], content[:20], b"PK\x03\x04"):
        path.write_bytes(damaged)
        with pytest.raises(FormatError, match="not a readable safetensors"):
            read_dataset(path, "safetensors")
