"""docs/datasets.md does what it shows."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from pruning.formats.datasets import read_dataset

DOC = Path(__file__).parents[2] / "docs" / "datasets.md"


def idx(array: np.ndarray) -> bytes:
    return struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def test_every_way_in_ends_as_a_file_that_the_service_reads(tmp_path, monkeypatch) -> None:
    import datasets

    monkeypatch.chdir(tmp_path)
    images, labels = np.zeros((4, 1, 3, 3), np.uint8), np.array([0, 1, 0, 1])
    for split in ("train", "test"):
        for flower in ("rose", "ash"):
            (tmp_path / "flowers" / split / flower).mkdir(parents=True)
            Image.new("RGB", (5, 5)).save(tmp_path / "flowers" / split / flower / "1.png")
        (tmp_path / f"{split}.csv").write_text("length,species\n1.5,iris\n2.5,ash\n")
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "train-images-idx3-ubyte").write_bytes(idx(images[:, 0]))
    (tmp_path / "mnist" / "train-labels-idx1-ubyte").write_bytes(idx(labels.astype(np.uint8)))
    datasets.Dataset.from_dict({"input_ids": [[1, 2]] * 4, "stars": [0, 1, 2, 3]}).save_to_disk("rated")
    (block,) = re.findall(r"```python\n(.*?)```", DOC.read_text(), re.DOTALL)
    exec(block, {"images": images, "labels": labels, "test_images": images, "test_labels": labels})
    shapes = {
        path.stem: tuple(read_dataset(path, "safetensors").train.inputs.shape)
        for path in tmp_path.glob("*.safetensors")
    }
    assert shapes == {
        "digits": (4, 1, 3, 3),
        "flowers": (2, 3, 32, 32),
        "mnist": (4, 1, 3, 3),
        "irises": (2, 1),
        "rated": (4, 2),
    }
