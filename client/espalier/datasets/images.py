"""Folders of images: `train/cat/1.png`, `train/dog/2.png`, `test/...`; or `cat/1.png` alone, which all is train."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from espalier.datasets.splits import DataError, Splits, labelled, library, split_of

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
CHANNELS = {"L": 1, "RGB": 3}


def from_images(
    folder: Path | str, *, size: tuple[int, int] | None = None, mode: Literal["L", "RGB"] | None = None
) -> Splits:
    """Read a folder of images, one folder a class, into uint8 inputs (n, channels, height, width).

    Args:
        size: (height, width) that every image is resized to; left out, all must be of one size.
        mode: L for grey, RGB for colour; left out, grey where the first image is grey.

    Raises:
        DataError: names the file or folder at fault.
    """
    folder = Path(folder)
    found = {split: _images(path) for split, path in _splits(folder).items()}
    for split, images in found.items():
        if not images:
            raise DataError(f"{folder}: no images of {split}; put each class's into a folder of its own")
    classes = sorted({path.parent.name for path in found["train"]})
    labels = labelled({split: [path.parent.name for path in paths] for split, paths in found.items()}, classes)
    shape = ImageShape.of(_open(found["train"][0]), size, mode)
    inputs = {
        split: shape.stack(((str(path), _open(path)) for path in paths), len(paths)) for split, paths in found.items()
    }
    return Splits({split: (inputs[split], labels[split]) for split in found}, classes)


@dataclass(frozen=True)
class ImageShape:
    """What every image becomes: its channels' mode, and (height, width), resized to or else insisted on."""

    mode: str
    size: tuple[int, int]
    resizes: bool

    @classmethod
    def of(cls, first: Any, size: tuple[int, int] | None, mode: str | None = None) -> ImageShape:
        """As the first image is, where nothing else is asked for."""
        mode = mode or ("L" if first.mode in ("1", "L", "LA") else "RGB")
        return cls(mode, size or (first.height, first.width), size is not None)

    def stack(self, images: Iterable[tuple[str, Any]], count: int) -> np.ndarray[Any, Any]:
        """`count` pairs of (what to call it, PIL image) as uint8 (n, channels, height, width).

        Raises:
            DataError: an image has another size.
        """
        numpy = library("numpy", "images")
        inputs = numpy.empty((count, CHANNELS[self.mode], *self.size), dtype="uint8")
        for at, (name, image) in enumerate(images):
            if image.mode[0] in "IF":  # PIL would clip them to 255
                raise DataError(f"{name} has more than 8 bits a channel; convert it, or make arrays of it yourself")
            converted = image.convert(self.mode)
            if self.resizes:
                converted = converted.resize((self.size[1], self.size[0]))
            elif (image.height, image.width) != self.size:
                raise DataError(
                    f"{name} is {image.height}x{image.width}, the first image {self.size[0]}x{self.size[1]}; "
                    "give size=(height, width) to resize all"
                )
            pixels = numpy.asarray(converted)
            inputs[at] = pixels[None] if self.mode == "L" else pixels.transpose(2, 0, 1)
        return inputs  # type: ignore[no-any-return]


def _splits(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    named = {split: path for path in sorted(folder.iterdir()) if path.is_dir() and (split := split_of(path.name))}
    if named and "train" not in named:
        raise DataError(f"{folder} has {', '.join(named)}, but no folder train")
    return named or {"train": folder}


def _images(folder: Path) -> list[Path]:
    """Class by class, by name: the same folder gives the same file."""
    return [
        path
        for class_folder in sorted(folder.iterdir())
        if class_folder.is_dir()
        for path in sorted(class_folder.iterdir())
        if path.suffix.lower() in SUFFIXES
    ]


def _open(path: Path) -> Any:
    image = library("PIL.Image", "images")
    try:
        opened = image.open(path)
        opened.load()
    except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a readable image ({error}); repair it or leave it out") from error
    return opened
