"""The selected round in further forms: as a program, as ONNX, and with the masked units cut out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from torch import nn

from pruning.formats.exported_program import write_program
from pruning.formats.extras import installed
from pruning.formats.onnx import write_onnx
from pruning.formats.results import write_state
from pruning.iterative import Stored
from pruning.removal import Removed, materialize
from pruning.reports import removal_report
from pruning.rewinding import restore
from worker.messages import ExportKind, Verified

FILES: dict[ExportKind, str] = {
    "program": "program.pt2",
    "onnx": "model.onnx",
    "reduced_program": "reduced_program.pt2",
    "reduced_model": "reduced_model",
    "reduced_onnx": "reduced.onnx",
    "plan": "plan.json",
}
"""By kind, in the order in which they are written."""
NEEDS_EXTRA: dict[ExportKind, str] = {"onnx": "onnx", "reduced_onnx": "onnx"}
"""By kind, the extra (`pruning.formats.extras`) that makes it."""


def missing_extra(kinds: Sequence[str]) -> str | None:
    """An extra that these need and this worker has not, so that no job trains first and finds out then."""
    needed = [NEEDS_EXTRA[kind] for kind in kinds if kind in NEEDS_EXTRA]
    return next((extra for extra in needed if extra not in installed()), None)


class Exports:
    def __init__(self, model: nn.Module, stored: Stored, round_to: int) -> None:
        """`model` becomes the round's: its weights are overwritten."""
        restore(model, stored.state)
        self._model, self._masks, self._round_to = model, stored.masks, round_to
        self._input_shape = cast("Sequence[int]", model.input_shape)

    def write(self, kind: ExportKind, path: Path) -> Verified | None:
        """How it was checked, where something else than torch can read it."""
        match kind:
            case "onnx":
                return Verified(**write_onnx(path, self._model, self._input_shape))
            case "reduced_onnx":
                return Verified(**write_onnx(path, self._removed.module, self._input_shape))
            case "program":
                write_program(path, self._model, self._input_shape)
            case "reduced_program":
                write_program(path, self._removed.module, self._input_shape)
            case "reduced_model":
                write_state(path, self._removed.module.state_dict())
            case "plan":
                path.write_text(json.dumps(self._plan()))
        return None

    @cached_property
    def _removed(self) -> Removed:
        return materialize(self._model, self._masks, self._input_shape, self._round_to)

    def _plan(self) -> dict[str, Any]:
        """What is kept, and what that saves, measured."""
        sizes = removal_report(self._model, self._masks, self._removed, self._input_shape)
        return {**self._removed.plan, "sizes": sizes}
