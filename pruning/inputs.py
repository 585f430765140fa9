"""Inputs made up where there is no data: to follow shapes, to try a model, to time it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def input_dtype(model: nn.Module) -> torch.dtype:
    """What the model's examples are: its `input_dtype`, if it has one, else float32."""
    dtype: torch.dtype = getattr(model, "input_dtype", torch.float32)
    return dtype


def takes_whole_numbers(model: nn.Module) -> bool:
    """Whether its inputs are whole numbers, such as tokens, which stand for something and are not scaled."""
    return input_dtype(model) in (torch.int64, torch.int32)


def blank_inputs(model: nn.Module, count: int, input_shape: Sequence[int]) -> Tensor:
    """(count, *input_shape) zeros."""
    return torch.zeros(count, *input_shape, dtype=input_dtype(model))


def noise(model: nn.Module, count: int, input_shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """(count, *input_shape): standard normal, or whole numbers that every embedding of the model knows."""
    if not takes_whole_numbers(model):
        return torch.randn(count, *input_shape, generator=generator)
    known = min((m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)), default=2)
    return torch.randint(0, known, (count, *input_shape), generator=generator, dtype=input_dtype(model))
