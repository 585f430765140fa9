"""Good files for each reader, small: where the variations begin."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from torch import Tensor, nn

from pruning.formats.architectures import build

LENET: dict[str, Any] = {"architecture": "lenet_300_100", "input_shape": [1, 2, 2], "num_classes": 3, "seed": 0}


class Conv(nn.Module):
    """Convolution, normalisation, dropout, a residual connection and a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.norm, self.dropout = nn.BatchNorm2d(4), nn.Dropout(0.1)
        self.hidden, self.output = nn.Linear(16, 16, bias=False), nn.Linear(16, 16)
        self.output.weight = self.hidden.weight

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = nn.functional.max_pool2d(x + self.second(x), 2)
        out: Tensor = self.output(self.dropout(torch.relu(self.hidden(x.flatten(1)))))
        return out


class Tokens(nn.Module):
    """Embedding, attention and a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(7, 4), nn.LayerNorm(4)
        self.attention, self.lstm = nn.MultiheadAttention(4, 2, batch_first=True), nn.LSTM(4, 3, batch_first=True)
        self.output = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embedding(x))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        out: Tensor = self.output(self.lstm(x)[0][:, -1])
        return out


def programs() -> Iterator[bytes]:
    for model, inputs in ((Conv(), torch.zeros(2, 1, 4, 4)), (Tokens(), torch.zeros(2, 5, dtype=torch.int64))):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The tensor attributes .*_flat_weights")
            dynamic = ({0: torch.export.Dim("batch")},)
            program = torch.export.export(model.train(), (inputs,), dynamic_shapes=dynamic)
        file = io.BytesIO()
        torch.export.save(program, file)
        yield file.getvalue()


def _arrays() -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    images, labels = np.zeros((12, 1, 2, 2), np.uint8), np.arange(12) % 3
    yield {"train.inputs": images, "train.targets": labels, "test.inputs": images[:3], "test.targets": labels[:3]}
    yield {"train.inputs": np.ones((4, 5)), "train.targets": np.eye(4, 2, dtype=np.float32)}
    yield {"train.inputs": np.ones((4, 5), np.int64), "train.targets": np.ones((4, 5), np.int32)}


def npz_datasets() -> Iterator[bytes]:
    for arrays in _arrays():
        for save in (np.savez, np.savez_compressed):
            file = io.BytesIO()
            save(file, allow_pickle=False, **arrays)
            yield file.getvalue()


def safetensors_datasets() -> Iterator[bytes]:
    return (safetensors.numpy.save(arrays) for arrays in _arrays())


def weights() -> Iterator[bytes]:
    state = build(**LENET).state_dict()
    yield safetensors.torch.save(state)
    yield safetensors.torch.save({key: tensor.bfloat16() for key, tensor in state.items()}, {"format": "pt"})


SEEDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "program": programs,
    "npz": npz_datasets,
    "safetensors": safetensors_datasets,
    "weights": weights,
}
