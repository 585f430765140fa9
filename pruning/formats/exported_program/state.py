"""Parameters, buffers and layers under the user's own names."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pruning.formats.errors import FormatError
from pruning.formats.exported_program.program import Attribute
from pruning.formats.exported_program.tensors import StoredTensor


@dataclass
class State:
    """What is stored, and the layers found so far.

    Attributes:
        stored: by the keys of the user's state dict, with non-persistent buffers and constants.
        transient: keys that the user's state dict does not have.
        layers: by path, each with its settings: a layer called twice is one, if its settings are the same.
    """

    stored: dict[str, StoredTensor] = field(default_factory=dict)
    transient: set[str] = field(default_factory=set)
    layers: dict[str, tuple[Any, nn.Module]] = field(default_factory=dict)

    def tensor(self, attribute: Attribute) -> Tensor:
        return self.stored[attribute.path].tensor

    def find_path(self, parts: Mapping[str, Any], optional: tuple[str, ...], hint: str) -> str | None:
        """The path P of a layer whose P.weight, P.bias, ... are these; with tied weights, `hint` if it is one of them.

        Args:
            parts: {"weight": Attribute, ...}
            optional: parts that the layer's class may have, but this call has not.
        """
        if not all(isinstance(part, Attribute) for part in parts.values()):
            return None
        paths: list[str] | None = None
        for name, part in parts.items():
            suffix = f".{name}"
            found = [key.removesuffix(suffix) for key in self.stored[part.path].keys if key.endswith(suffix)]
            paths = found if paths is None else [path for path in paths if path in found]
        paths = [path for path in paths or () if not any(f"{path}.{name}" in self.stored for name in optional)]
        return hint if hint in paths else next(iter(paths), None)

    def layer(self, path: str, settings: Any, make: Callable[[], nn.Module]) -> bool:
        """Whether the layer at `path` has these settings; it is made where there is none."""
        if path in self.layers:
            return bool(self.layers[path][0] == settings)
        try:
            module = make()
        except (ValueError, RuntimeError, TypeError, ZeroDivisionError, OverflowError) as error:
            raise FormatError(path, f"is no layer that torch can make ({error}); export the program again") from error
        for name, empty in (*module.named_parameters(), *module.named_buffers()):
            key = f"{path}.{name}"
            if key in self.stored and self.stored[key].tensor.shape != empty.shape:
                shape = tuple(self.stored[key].tensor.shape)
                raise FormatError(key, f"has the shape {shape} instead of {tuple(empty.shape)}; export again")
        self.layers[path] = (settings, module)
        return True

    def free_path(self, wanted: str, word: str) -> str:
        """A path for a layer without state: `wanted` if nothing is there, else one at the root."""
        taken = {*self.layers, *self.stored}
        if wanted and not any(name == wanted or name.startswith(f"{wanted}.") for name in taken):
            return wanted
        number = 0
        while any(name.split(".")[0] == f"_{word}{number}" for name in taken):
            number += 1
        return f"_{word}{number}"


def furnish(root: nn.Module, state: State) -> None:
    """Give the module its layers, parameters and buffers. Tied weights are one parameter under all their names."""
    parameters: dict[int, nn.Parameter] = {}
    for key, stored in state.stored.items():
        path, _, name = key.rpartition(".")
        owner = _descend(root, path, state)
        try:
            if not stored.is_parameter:
                owner.register_buffer(name, stored.tensor, persistent=key not in state.transient)
                continue
            parameter = parameters.get(id(stored.tensor))
            if parameter is None:
                parameter = nn.Parameter(stored.tensor, requires_grad=stored.requires_grad)
                parameters[id(stored.tensor)] = parameter
            if name not in owner._parameters:
                owner.register_parameter(name, parameter)
            else:
                setattr(owner, name, parameter)  # recurrent layers keep a list of their own, which this renews
        except KeyError as error:
            raise _taken(key) from error
    for path in state.layers:
        _descend(root, path, state)
    for key, tensor in (*root.named_parameters(), *root.named_buffers()):
        if tensor.device.type == "meta":
            raise FormatError(key, "is used and not stored; export the program again")


def _descend(root: nn.Module, path: str, state: State) -> nn.Module:
    """The module at `path`; layers and empty containers are put there on the way."""
    module = root
    parts = path.split(".") if path else []
    for depth, name in enumerate(parts, 1):
        here = ".".join(parts[:depth])
        child = module._modules.get(name)
        if child is None:
            child = state.layers[here][1] if here in state.layers else nn.Module()
            if keyword.iskeyword(name):
                raise _taken(here)
            try:
                module.add_module(name, child)
            except KeyError as error:
                raise _taken(here) from error
        module = child
    return module


def _taken(key: str) -> FormatError:
    return FormatError(key, "is a name that torch or Python keeps for itself; rename the module or parameter")


def counterless(norm: nn.modules.batchnorm._BatchNorm, has_counter: bool) -> nn.Module:
    """Without `num_batches_tracked` where the user's own has none."""
    norm.num_batches_tracked = torch.zeros((), dtype=torch.int64, device="meta") if has_counter else None
    return norm
