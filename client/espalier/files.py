"""Files on the user's side: what is streamed out, and what is stored of what comes in."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from espalier.errors import EspalierError
from espalier.wires import Content, Wire

PIECE_BYTES = 1 << 18

Upload = Path | str | bytes
Arrays = Mapping[str, tuple[Any, Any]]
"""Split name -> (inputs, targets); numpy arrays, or anything that numpy reads, such as tensors."""
Progress = Callable[[int, int], None]
"""progress(bytes so far, bytes of the whole): after every piece; where it goes on after a cut, from there."""


def opened(file: Upload) -> AbstractContextManager[BinaryIO]:
    return nullcontext(BytesIO(file)) if isinstance(file, bytes) else Path(file).open("rb")


def size_of(file: Upload) -> int:
    return len(file) if isinstance(file, bytes) else Path(file).stat().st_size


async def pieces(wire: Wire, content: BinaryIO, offset: int, size_bytes: int, progress: Progress | None) -> Content:
    """From `offset` on."""
    content.seek(offset)
    while offset < size_bytes:
        wanted = min(PIECE_BYTES, size_bytes - offset)
        piece = await wire.work(lambda wanted=wanted: content.read(wanted))  # type: ignore[misc]
        if not piece:
            raise EspalierError(f"the file has {offset} bytes now, and had {size_bytes} when its upload began")
        offset += len(piece)
        yield piece
        if progress:
            progress(offset, size_bytes)


@contextmanager
def arrays_as_npz(splits: Arrays) -> Iterator[Path]:
    """The splits as a file in a temporary folder: `train.inputs`, `train.targets`, ..."""
    import numpy  # only who passes arrays needs it

    arrays: dict[str, Any] = {}
    for split, (inputs, targets) in splits.items():
        arrays |= {f"{split}.inputs": numpy.asarray(inputs), f"{split}.targets": numpy.asarray(targets)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dataset.npz"
        numpy.savez(path, allow_pickle=False, **arrays)
        yield path


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path`, renamed when all has come; whatever goes wrong, nothing half-written stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.urandom(6).hex()}.part")
    try:
        with partial.open("xb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
