"""Columns of tables as inputs and targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from espalier.datasets.splits import DataError, labelled, library

if TYPE_CHECKING:
    import numpy as np


Arrays = dict[str, "np.ndarray[Any, Any]"]


def read_inputs(tables: Mapping[str, Any], columns: Sequence[str]) -> Arrays:
    """Split -> (rows, columns) float32; of one column of lists (rows, length), whole numbers as int64.

    Args:
        tables: split name -> pyarrow table, each with all the columns.

    Raises:
        DataError: names the column, and the row at fault.
    """
    return {split: _inputs(table, split, columns) for split, table in tables.items()}


def read_targets(tables: Mapping[str, Any], columns: Sequence[str]) -> tuple[Arrays, Sequence[str] | None]:
    """(split -> targets, the classes' names where they are text). Several columns are (rows, columns) float32.

    Raises:
        DataError: names the column, and the row at fault.
    """
    types = library("pyarrow.types", "tables")
    if len(columns) > 1:
        return {split: _stacked(table, split, columns, "targets") for split, table in tables.items()}, None
    (column,) = columns
    if not _is_text(types, tables["train"].schema.field(column).type):
        return {split: _array(table, split, column, "a target") for split, table in tables.items()}, None
    names = {split: [str(name) for name in _known(table, split, column).to_pylist()] for split, table in tables.items()}
    classes = sorted(set(names["train"]))
    return labelled(names, classes), classes


def _inputs(table: Any, split: str, columns: Sequence[str]) -> np.ndarray[Any, Any]:
    types = library("pyarrow.types", "tables")
    if len(columns) == 1 and _is_list(types, table.schema.field(columns[0]).type):
        return _array(table, split, columns[0], "an input")
    return _stacked(table, split, columns, "inputs")


def _stacked(table: Any, split: str, columns: Sequence[str], what: str) -> np.ndarray[Any, Any]:
    """(rows, columns) float32."""
    numpy, types = library("numpy", "tables"), library("pyarrow.types", "tables")
    for column in columns:
        if _is_list(types, table.schema.field(column).type):
            raise DataError(f"{split}, column {column!r} holds lists; name it alone, not one of several {what}")
    arrays = [_array(table, split, column, f"one of several {what}") for column in columns]
    return numpy.column_stack(arrays).astype("float32")  # type: ignore[no-any-return]


def _array(table: Any, split: str, column: str, what: str) -> np.ndarray[Any, Any]:
    """(rows,) or, of lists, (rows, length): whole numbers int64, others float32."""
    types = library("pyarrow.types", "tables")
    values = _known(table, split, column)
    kind, shape = values.type, [len(values)]
    if _is_list(types, kind):
        length = _length(values, split, column)
        values, kind, shape = values.flatten(), kind.value_type, [len(values), length]
        if values.null_count:
            raise DataError(f"{split}, column {column!r} has lists with empty places; fill them")
    if types.is_boolean(kind) or types.is_integer(kind):
        dtype = "int64"
    elif types.is_floating(kind) or types.is_decimal(kind):
        dtype = "float32"
    else:
        raise DataError(
            f"{split}, column {column!r} holds {kind}, which is no number; leave it out, or make numbers of it "
            f"(such as a column of 0 and 1 for each of its values) to use it as {what}"
        )
    return values.to_numpy(zero_copy_only=False).astype(dtype).reshape(shape)  # type: ignore[no-any-return]


def _known(table: Any, split: str, column: str) -> Any:
    """The column in one piece. Raises DataError where a row has nothing in it."""
    values = table.column(column).combine_chunks()
    if values.null_count:
        row = values.is_null().index(True).as_py()
        raise DataError(f"{split}, column {column!r} is empty in row {row + 1}; fill it or leave the row out")
    return values.dictionary_decode() if hasattr(values, "dictionary_decode") else values


def _length(values: Any, split: str, column: str) -> int:
    lengths = library("pyarrow.compute", "tables").list_value_length(values).to_pylist()
    for row, length in enumerate(lengths):
        if length != lengths[0]:
            raise DataError(
                f"{split}, column {column!r} has {length} values in row {row + 1} and {lengths[0]} in the first; "
                "pad or cut them to one length"
            )
    return int(lengths[0]) if lengths else 0


def _is_text(types: Any, kind: Any) -> bool:
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or (types.is_dictionary(kind) and _is_text(types, kind.value_type))
    )


def _is_list(types: Any, kind: Any) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))
