"""The readers under test: what a worker's child does with an upload, up to the end of its validation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from fuzz.seeds import LENET
from pruning.formats.dataset_report import describe
from pruning.formats.datasets import read_dataset
from pruning.formats.errors import FormatError
from pruning.formats.exported_program import read_program
from pruning.formats.models import read_model
from pruning.intake import inspect_model

MAX_NPZ_BYTES = 64 << 20


def _program(path: Path) -> None:
    program = read_program(path)
    inspect_model(program, program.input_shape)


def _weights(path: Path) -> None:
    read_model(path, "safetensors", LENET)


def _npz(path: Path) -> None:
    json.dumps(describe(read_dataset(path, "npz", MAX_NPZ_BYTES)), allow_nan=False)


def _safetensors(path: Path) -> None:
    json.dumps(describe(read_dataset(path, "safetensors")), allow_nan=False)


def read(reader: str, path: Path) -> bool:
    """Whether the file was taken; what is raised is a fault of ours."""
    try:
        READERS[reader](path)
    except (FormatError, MemoryError):
        return False
    except RuntimeError as error:
        if "allocate memory" not in str(error):  # which a worker explains to its user
            raise
        return False
    return True


READERS: dict[str, Callable[[Path], None]] = {
    "program": _program,
    "npz": _npz,
    "safetensors": _safetensors,
    "weights": _weights,
}
