"""Files on the user's side: what is streamed out, and what is stored of what comes in."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from espalier.errors import DigestMismatch

Upload = Path | str | bytes
Arrays = Mapping[str, tuple[Any, Any]]
"""Split name -> (inputs, targets); numpy arrays, or anything that numpy reads, such as tensors."""


def opened(file: Upload) -> AbstractContextManager[BinaryIO]:
    """Bytes as a file, too: httpx sends a file in small pieces, and bytes in copies of all that is left."""
    return nullcontext(BytesIO(file)) if isinstance(file, bytes) else Path(file).open("rb")


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


def write_checked(chunks: Iterable[bytes], path: Path, sha256: str) -> None:
    """As `write_whole`, once the digest is right."""
    digest = hashlib.sha256()

    def digested() -> Iterator[bytes]:
        for chunk in chunks:
            digest.update(chunk)
            yield chunk
        if digest.hexdigest() != sha256:
            raise DigestMismatch(f"{path.name}: sha256 is {digest.hexdigest()}, and {sha256} was promised")

    write_whole(digested(), path)


def write_whole(chunks: Iterable[bytes], path: Path) -> None:
    """Written beside `path`, and renamed when all has come; whatever goes wrong, nothing half-written stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.urandom(6).hex()}.part")
    try:
        with partial.open("xb") as file:
            for chunk in chunks:
                file.write(chunk)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
