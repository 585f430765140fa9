"""Hugging Face datasets on disk: what `Dataset.save_to_disk` and `DatasetDict.save_to_disk` wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from espalier.datasets.columns import Arrays, read_inputs, read_targets
from espalier.datasets.images import ImageShape
from espalier.datasets.splits import DataError, Splits, library, split_of


def from_saved(
    folder: Path | str,
    *,
    target: str | Sequence[str] | None = None,
    inputs: str | Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
) -> Splits:
    """Read a dataset that was saved to disk; nothing is downloaded.

    Args:
        target: the column to predict; left out, the one class label that there is. As in `from_table`, or a class
            label, whose names are kept.
        inputs: the columns to predict from; left out, all others. As in `from_table`, or one column of images.
        size: (height, width) that images are resized to; left out, all must be of one size.

    Raises:
        DataError: names the column, and the row at fault.
    """
    saved = _load(Path(folder))
    features = saved["train"].features
    labels = library("datasets", "saved datasets").ClassLabel
    if target is None:
        known = [name for name, feature in features.items() if isinstance(feature, labels)]
        if len(known) != 1:
            raise DataError(f"{folder} has {len(known)} class labels; name the target, of {', '.join(features)}")
        target = known[0]
    targets = [target] if isinstance(target, str) else list(target)
    columns = (
        [inputs] if isinstance(inputs, str) else list(inputs or [name for name in features if name not in targets])
    )
    for split, part in saved.items():
        if missing := [name for name in (*columns, *targets) if name not in part.features]:
            raise DataError(f"{folder}, {split} has no column {missing[0]!r}; it has {', '.join(part.features)}")
    classes = list(features[targets[0]].names) if isinstance(features[targets[0]], labels) else None
    tables = {split: part.select_columns(targets).with_format("arrow")[:] for split, part in saved.items()}
    answers, names = read_targets(tables, targets)
    read = _inputs(saved, columns, size, folder)
    return Splits({split: (read[split], answers[split]) for split in saved}, classes or names)


def _inputs(saved: Mapping[str, Any], columns: list[str], size: tuple[int, int] | None, folder: Path | str) -> Arrays:
    is_image = library("datasets", "saved datasets").Image
    images = [column for column in columns if isinstance(saved["train"].features[column], is_image)]
    if not images:
        return read_inputs(
            {split: part.select_columns(columns).with_format("arrow")[:] for split, part in saved.items()}, columns
        )
    if len(columns) > 1:
        raise DataError(f"{folder}: {images[0]!r} holds images and must be the only input; name inputs={images[0]!r}")
    (column,) = columns

    def rows(split: str) -> Iterator[tuple[str, Any]]:
        for row, example in enumerate(saved[split].select_columns(columns), 1):
            if example[column] is None:
                raise DataError(f"{split}, column {column!r} is empty in row {row}; fill it or leave the row out")
            yield f"{split}, row {row}", example[column]

    first = next(rows("train"))[1]
    shape = ImageShape.of(first, size)
    return {split: shape.stack(rows(split), len(part)) for split, part in saved.items()}


def _load(folder: Path) -> dict[str, Any]:
    """Split -> dataset; a dataset without splits is train."""
    package = library("datasets", "saved datasets")
    try:
        loaded = package.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder} is not a dataset saved to disk ({error}); write it with save_to_disk") from error
    if not isinstance(loaded, package.DatasetDict):
        return {"train": loaded}
    splits = {split: loaded[name] for name in loaded if (split := split_of(name))}
    if "train" not in splits:
        raise DataError(f"{folder} has no train split, only {', '.join(loaded)}")
    return splits
