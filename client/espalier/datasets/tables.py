"""Tables: CSV and Parquet files, a row an example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from espalier.datasets.columns import read_inputs, read_targets
from espalier.datasets.splits import DataError, Splits, library


def from_table(
    files: Path | str | Mapping[str, Path | str],
    *,
    target: str | Sequence[str],
    inputs: Sequence[str] | None = None,
) -> Splits:
    """Read CSV (with a header line) or Parquet: one file, which all is train, or split name -> file.

    Args:
        target: the column to predict. Text is a class (labels follow the names' order), whole numbers are labels,
            other numbers a regression. Several columns of 0 and 1 are several labels, other numbers several values.
        inputs: the columns to predict from, by default all others, in train's order: numbers, which become float32
            (n, columns); or one column of lists of one length, such as tokens.

    Raises:
        DataError: names the column, and the row at fault.
    """
    paths = dict(files) if isinstance(files, Mapping) else {"train": files}
    if "train" not in paths:
        raise DataError(f"there is no train split, only {', '.join(paths)}")
    targets = [target] if isinstance(target, str) else list(target)
    tables = {split: read_table(Path(path)) for split, path in paths.items()}
    columns = list(inputs or [name for name in tables["train"].column_names if name not in targets])
    for split, table in tables.items():
        if missing := [name for name in (*columns, *targets) if name not in table.column_names]:
            raise DataError(f"{paths[split]} has no column {missing[0]!r}; it has {', '.join(table.column_names)}")
    if not columns:
        raise DataError(f"{paths['train']} has no columns beside the target's")
    read, (answers, classes) = read_inputs(tables, columns), read_targets(tables, targets)
    return Splits({split: (read[split], answers[split]) for split in tables}, classes)


def read_table(path: Path) -> Any:
    """A pyarrow table. Raises DataError."""
    pyarrow = library("pyarrow", "tables")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return library("pyarrow.parquet", "tables").read_table(path)
        return library("pyarrow.csv", "tables").read_csv(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable table ({error}); give CSV with a header line, or Parquet") from error
