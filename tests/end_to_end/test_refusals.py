"""What is wrong with a user's files is said in words that name it: at once, or when a worker has looked at it."""

from __future__ import annotations

import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from espalier import ApiError, Client, NotReady
from safetensors.torch import save
from torch import Tensor, nn

LENET: dict[str, Any] = {"architecture": "lenet_300_100", "input_shape": (1, 8, 8), "num_classes": 10}
BLANK = np.zeros((100, 1, 8, 8), dtype=np.uint8)


def weights(**layers: tuple[int, int]) -> dict[str, Tensor]:
    """Of linear layers, {name: (inputs, outputs)}."""
    network = nn.ModuleDict({name: nn.Linear(*shape) for name, shape in layers.items()})
    return dict(network.state_dict())


def lenet() -> dict[str, Tensor]:
    return weights(fc1=(64, 300), fc2=(300, 100), fc3=(100, 10))


def test_a_pickle_is_refused_before_it_is_stored(client: Client, data_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "lenet.pt"
    torch.save(lenet(), path)
    with pytest.raises(ApiError, match=r"run code when loaded.*safetensors\.torch\.save_file") as caught:
        client.upload_model(path, architecture="lenet_300_100")
    assert (caught.value.status, caught.value.code) == (422, "unsupported_format")
    content = path.read_bytes()
    assert not [file for file in (data_dir / "blobs").rglob("*") if file.is_file() and file.read_bytes() == content]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (weights(fc1=(64, 300), fc2=(300, 100)), r"missing: fc3\.bias, fc3\.weight;"),
        (lenet() | weights(fc1=(784, 300)), r"fc1\.weight \(300, 784\) instead of \(300, 64\); check input_shape"),
        (lenet() | {"fc2.bias": torch.full((100,), torch.nan)}, r"fc2\.bias.*holds NaN"),
    ],
)
def test_weights_that_do_not_fit_are_invalid(client: Client, state: dict[str, Tensor], words: str) -> None:
    with pytest.raises(NotReady, match=words) as caught:
        client.upload_model(save(state), **LENET)
    assert caught.value.document["error"]["code"] == "invalid_content"
    assert client.model(caught.value.document["id"]) == caught.value.document


def test_examples_that_are_no_numbers_are_invalid(client: Client) -> None:
    images = BLANK.astype(np.float32)
    images[7, 0, 3, 3] = np.nan
    with pytest.raises(NotReady, match=r"train\.inputs.*example 7 holds NaN") as caught:
        client.upload_dataset({"train": (images, np.arange(100) % 10)})
    assert caught.value.document["status"] == "invalid"


def test_an_array_of_objects_runs_no_code(client: Client, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    file = BytesIO()
    np.savez(file, **{"train.inputs": np.array([Trap()] * 20, dtype=object), "train.targets": np.arange(20)})
    with pytest.raises(NotReady, match=r"train\.inputs"):
        client.upload_dataset(file.getvalue())
    assert not (tmp_path / "ran").exists()


def test_a_label_that_the_model_has_no_output_for_is_refused_at_once(client: Client) -> None:
    model = client.upload_model(save(lenet()), **LENET)
    dataset = client.upload_dataset({"train": (BLANK, np.arange(100) % 11)}, name="eleven classes")
    with pytest.raises(ApiError, match="labels go up to 10, but the model has 10 outputs") as caught:
        client.create_job(model=model, dataset=dataset, recipe={"strategy": "lottery_ticket_reset"})
    assert (caught.value.status, caught.value.code) == (422, "dataset_mismatch")
    assert caught.value.problem["param"] == "/dataset"
    assert list(client.jobs(model=model["id"])) == []
