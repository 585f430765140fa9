"""A call's arguments, matched by name against the operator's own schema and checked against its types."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pruning.formats.exported_program.program import Attribute, Value
from pruning.formats.exported_program.schema import NamedArgument
from pruning.formats.exported_program.tensors import DTYPES, STRIDED

MAX_LIST = 4096
_TEXT = re.compile(r"[A-Za-z0-9_,.> \-]{0,128}")
_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_NOT_FINITE = {"Infinity": float("inf"), "-Infinity": float("-inf"), "NaN": float("nan")}


class Mismatch(ValueError):
    """An argument is not what the schema asks for. Whoever knows the place in the source makes a FormatError of it."""


@dataclass(frozen=True)
class Known:
    """What a name of the file stands for. `rank`: dimensions of a tensor, as the file says."""

    reference: Value | Attribute
    is_tensor: bool
    rank: int | None = None


class Arguments:
    """Reads arguments; `names` is what has been defined so far, `device` gives what stands for any device."""

    def __init__(self, names: dict[str, Known], device: Callable[[], Value]) -> None:
        self._names = names
        self._device = device

    def bind(self, schema: torch._C.FunctionSchema, given: Sequence[NamedArgument]) -> dict[str, Any]:
        """{name: argument} for every argument of the schema, defaults filled in."""
        wanted = {argument.name: argument for argument in schema.arguments}
        bound = {}
        for argument in given:
            if argument.name not in wanted or argument.name in bound:
                raise Mismatch(f"takes no (second) argument {argument.name!r}")
            bound[argument.name] = self.read(argument.arg, str(wanted[argument.name].real_type), argument.name)
        for name, missing in wanted.items():
            if name not in bound and not missing.has_default_value():
                raise Mismatch(f"lacks its argument {name!r}")
        return {name: bound.get(name, argument.default_value) for name, argument in wanted.items()}

    def numbers(self, given: Sequence[NamedArgument]) -> list[Any]:
        if len(given) > 2:
            raise Mismatch("takes at most two numbers")
        return [self.read(argument.arg, "number", argument.name) for argument in given]

    def read(self, argument: dict[str, Any], wanted: str, name: str) -> Any:
        ((kind, value),) = argument.items()
        if wanted.startswith("Optional["):
            if kind == "as_none":
                return None
            wanted = wanted[len("Optional[") : -1]
            if kind == "as_optional_tensor":
                return self._optional_tensor(value, name)
        if wanted.startswith("List["):
            return self._list(kind, value, wanted[len("List[") : -1], name)
        return self._single(kind, value, wanted, name)

    def _list(self, kind: str, value: Any, item: str, name: str) -> list[Any]:
        if not isinstance(value, list) or len(value) > MAX_LIST:
            raise Mismatch(f"takes a list of at most {MAX_LIST} as {name!r}")
        if item == "Optional[Tensor]" and kind == "as_optional_tensors":
            return [self._optional_tensor(part, name) for part in value]
        if item in ("Tensor", "Optional[Tensor]") and kind == "as_tensors":
            return [self._tensor(part, name) for part in value]
        if kind in ("as_sym_ints", "as_sym_floats", "as_sym_bools"):
            return [self._single(kind[:-1], part, item, name) for part in value]
        if kind in ("as_ints", "as_floats", "as_bools"):
            return [self._single(kind[:-1], part, item, name) for part in value]
        raise Mismatch(f"takes a list of {item} as {name!r}, not {kind[:40]!r}")

    def _single(self, kind: str, value: Any, wanted: str, name: str) -> Any:
        if wanted == "Tensor" and kind == "as_tensor":
            return self._tensor(value, name)
        # Where one operand is a plain number, torch writes it in the place of a tensor.
        accepted = _NUMBERS.get(wanted, ())
        if kind in ("as_sym_int", "as_sym_float", "as_sym_bool") and isinstance(value, dict) and len(value) == 1:
            ((form, inner),) = value.items()
            if form == "as_name" and kind.replace("sym_", "") in accepted:
                return self._look_up(inner, name, is_tensor=False)
            kind, value = form, inner
        if kind in accepted:
            return _number(kind, value, name)
        if wanted == "str" and kind == "as_string" and isinstance(value, str) and _TEXT.fullmatch(value):
            return value
        if wanted == "ScalarType" and kind == "as_scalar_type" and _is_key(value, DTYPES):
            return DTYPES[value]
        if wanted == "MemoryFormat" and kind == "as_memory_format" and _is_key(value, _FORMATS):
            return _FORMATS[value]
        if wanted == "Layout" and kind == "as_layout" and value == STRIDED:
            return torch.strided
        if wanted == "Device" and kind == "as_device":
            return self._device()  # wherever the program was exported, its tensors go where the input is
        raise Mismatch(f"takes a {wanted} as {name!r}, not {kind[:40]!r} {str(value)[:60]!r}")

    def _optional_tensor(self, value: Any, name: str) -> Value | Attribute | None:
        if not isinstance(value, dict) or len(value) != 1:
            raise Mismatch(f"takes a tensor as {name!r}")
        return None if "as_none" in value else self._tensor(value.get("as_tensor"), name)

    def _tensor(self, value: Any, name: str) -> Value | Attribute:
        return self._look_up(value.get("name") if isinstance(value, dict) else None, name, is_tensor=True)

    def _look_up(self, value: Any, name: str, is_tensor: bool) -> Value | Attribute:
        known = self._names.get(value) if isinstance(value, str) else None
        if known is None:
            raise Mismatch(f"uses {str(value)[:60]!r} as {name!r} before it is defined")
        if known.is_tensor != is_tensor:
            raise Mismatch(f"takes a {'tensor' if is_tensor else 'number'} as {name!r}, which {value!r} is not")
        return known.reference


_NUMBERS = {
    "int": ("as_int",),
    "SymInt": ("as_int",),
    "bool": ("as_bool",),
    "float": ("as_float", "as_int"),
    "number": ("as_int", "as_float", "as_bool"),
    "Tensor": ("as_int", "as_float", "as_bool"),
}


def _number(kind: str, value: Any, name: str) -> int | float | bool:
    if kind == "as_float" and isinstance(value, str) and value in _NOT_FINITE:
        return _NOT_FINITE[value]
    types = {"as_int": (int,), "as_float": (float, int), "as_bool": (bool,)}[kind]
    if type(value) not in types or (type(value) is int and not -(1 << 63) <= value < 1 << 63):
        raise Mismatch(f"takes a number as {name!r}, not {str(value)[:60]!r}")
    number: int | float | bool = float(value) if kind == "as_float" else value
    return number


def _is_key(value: Any, table: dict[int, Any]) -> bool:
    return type(value) is int and value in table
