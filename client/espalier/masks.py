"""Reading `masks.safetensors`, with numpy alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray


def read_masks(path: Path | str) -> dict[str, NDArray[numpy.bool_]]:
    """{parameter name: bool array of the parameter's shape, True where a weight is kept}."""
    import numpy  # only who reads masks needs it

    content = Path(path).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    shapes = json.loads(header.pop("__metadata__")["shapes"])
    masks = {}
    for key, entry in header.items():
        begin, end = entry["data_offsets"]
        packed = numpy.frombuffer(content[start + begin : start + end], dtype=numpy.uint8)
        shape = shapes[key]
        bits = numpy.unpackbits(packed, count=numpy.prod(shape, dtype=int), bitorder="little")
        masks[key] = bits.view(numpy.bool_).reshape(shape)
    return masks
