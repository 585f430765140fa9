"""Models in, whatever their format: a module that carries `input_shape`, and `input_dtype` where it is not float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruning.formats.architectures import Network, build
from pruning.formats.exported_program import Program, read_program
from pruning.formats.names import PROGRAM
from pruning.formats.weights import load_into, read_state_dict


def read_model(path: Path, format: str, spec: Mapping[str, Any]) -> Network | Program:
    """
    Args:
        format: exported_program, or safetensors for the weights of the architecture that `spec` names (the arguments
            of `architectures.build`).

    Raises:
        FormatError: naming the field at fault and the remedy.
    """
    if format == PROGRAM:
        return read_program(path)
    model = build(**spec)
    load_into(model, read_state_dict(path))
    return model
