"""A module out of the user's own code, run on the user's own machine: `file.py:name` or `package.module:name`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from espalier.errors import ExportError

if TYPE_CHECKING:
    from torch import nn


def load_module(code: str) -> nn.Module:
    """`name` is a module, or a class or function that makes one without arguments; dots reach into it.

    Raises:
        ExportError: there is no such thing, or it is no torch.nn.Module.
    """
    place, _, name = code.rpartition(":")
    try:
        found: Any = _imported(place)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, OSError) as error:
        raise ExportError(f"{code}: {error}") from error
    try:
        from torch import nn
    except ImportError as error:
        raise ExportError("torch is not installed here; pip install 'espalier[torch]'") from error
    if callable(found) and not isinstance(found, nn.Module):
        try:
            found = found()
        except TypeError as error:
            raise ExportError(
                f"{code} cannot be called without arguments ({error}); name a function that makes it"
            ) from error
    if not isinstance(found, nn.Module):
        raise ExportError(f"{code} is {type(found).__name__}, not a torch.nn.Module nor what makes one")
    return found


def _imported(place: str) -> ModuleType:
    if not place.endswith(".py"):
        sys.path.insert(0, "")  # as `python -m` does: the folder where the user is
        return importlib.import_module(place)
    file = Path(place).resolve()
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    sys.path.insert(0, str(file.parent))  # as `python file.py` does: what lies beside it
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module
