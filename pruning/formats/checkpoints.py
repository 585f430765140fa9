"""A checkpoint as a file: its tensors as safetensors, all else as JSON in the one metadata key. Read as data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pruning.checkpoints import Checkpoint, Measured, Midway
from pruning.formats.errors import FormatError
from pruning.formats.results import pack, unpack

VERSION: Literal[1] = 1
KEY = "checkpoint"

Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Metrics = dict[str, Finite]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Midway(_Part):
    step: Count
    best_step: Count
    best: Metrics | None
    since_best: Count
    evaluate_seconds: Finite


class _Measured(_Part):
    metrics: dict[str, Metrics]
    early_stopping: dict[str, Any] | None
    steps: Count
    seconds: dict[str, Finite]
    controls: dict[str, dict[str, Any]]


class _Header(_Part):
    version: Literal[1]
    recipe: str
    position: Count
    number: Count | None
    shapes: dict[str, list[Count]]
    """Of the masks, which lie packed."""
    prune_seconds: Finite
    seconds: Finite
    control: str | None
    midway: _Midway
    has_kept: bool
    measured: _Measured | None
    has_optimizer: bool
    """Of `measured`."""


def size_bytes(checkpoint: Checkpoint) -> int:
    """Of its file, less the header."""
    return sum(tensor.nbytes for tensor in _tensors(checkpoint, {}).values()) + sum(
        -(-mask.numel() // 8) for mask in checkpoint.masks.values()
    )


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """From the tensors as they lie: nothing is copied but what overlaps, or has another layout in memory."""
    midway, measured = checkpoint.midway, checkpoint.measured
    header = _Header(
        version=VERSION,
        recipe=checkpoint.recipe,
        position=checkpoint.position,
        number=checkpoint.number,
        shapes={name: list(mask.shape) for name, mask in checkpoint.masks.items()},
        prune_seconds=checkpoint.prune_seconds,
        seconds=checkpoint.seconds,
        control=checkpoint.control,
        midway=_Midway(**{name: getattr(midway, name) for name in _Midway.model_fields}),
        has_kept=midway.kept is not None,
        measured=_Measured(**{name: getattr(measured, name) for name in _Measured.model_fields}) if measured else None,
        has_optimizer=measured is not None and measured.optimizer is not None,
    )
    masks = {name: pack(mask) for name, mask in checkpoint.masks.items()}
    safetensors.torch.save_file(
        _separate(_tensors(checkpoint, masks)), path, metadata={KEY: json.dumps(header.model_dump(), allow_nan=False)}
    )


def read_checkpoint(path: Path) -> Checkpoint:
    """
    Raises:
        FormatError: it is no checkpoint, or a damaged one, or of another version. That it fits a model and a recipe is
            for `pruning.checkpoints.check_fit` to say.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = _Header.model_validate(json.loads((file.metadata() or {})[KEY]))
            parts: dict[str, dict[str, Tensor]] = {}
            for key in file.keys():  # noqa: SIM118 - no dictionary
                part, _, name = key.partition("/")
                parts.setdefault(part, {})[name] = file.get_tensor(key)
        masks = {name: _unpack(parts.get("masks", {})[name], shape) for name, shape in header.shapes.items()}
    except (SafetensorError, KeyError, ValueError, ValidationError, RecursionError, OSError) as error:
        raise FormatError("checkpoint", f"it cannot be read ({str(error)[:200]}); train on from the round") from error
    measured = None
    if header.measured is not None:
        optimizer = parts.get("measured_optimizer", {}) if header.has_optimizer else None
        measured = Measured(state=parts.get("measured", {}), optimizer=optimizer, **dict(header.measured))
    kept = parts.get("kept", {}) if header.has_kept else None
    return Checkpoint(
        recipe=header.recipe,
        position=header.position,
        number=header.number,
        masks=masks,
        prune_seconds=header.prune_seconds,
        seconds=header.seconds,
        control=header.control,
        midway=Midway(
            state=parts.get("state", {}), optimizer=parts.get("optimizer", {}), kept=kept, **dict(header.midway)
        ),
        measured=measured,
    )


def _tensors(checkpoint: Checkpoint, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    midway, measured = checkpoint.midway, checkpoint.measured
    parts = {"masks": masks, "state": midway.state, "optimizer": midway.optimizer, "kept": midway.kept}
    if measured is not None:
        parts |= {"measured": measured.state, "measured_optimizer": measured.optimizer}
    return {f"{part}/{name}": tensor for part, found in parts.items() for name, tensor in (found or {}).items()}


def _unpack(bits: Tensor, shape: list[int]) -> Tensor:
    """Raises ValueError: a shape of another size would be filled up, or take all memory."""
    if bits.numel() != -(-prod(shape) // 8) or bits.element_size() != 1:
        raise ValueError(f"a mask of {bits.numel()} bytes is not of shape {shape}")
    return unpack(bits, shape)


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Safetensors refuses tensors that share memory, as tied weights do."""
    separate: dict[str, Tensor] = {}
    seen = set()
    for key, tensor in tensors.items():
        tensor = tensor.contiguous()
        storage = tensor.untyped_storage().data_ptr()
        separate[key] = tensor.clone() if storage in seen and tensor.numel() else tensor
        seen.add(storage)
    return separate
