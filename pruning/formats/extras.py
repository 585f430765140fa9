"""What some workers have installed and others have not. No torch: a worker says it of itself, and the API reads it."""

from __future__ import annotations

from importlib.util import find_spec

PACKAGES = {"onnx": ("onnx", "onnxruntime", "onnxscript")}
"""By extra, the packages that it consists of."""


def installed() -> list[str]:
    """The extras that are there whole, found without importing them."""
    return [extra for extra, packages in PACKAGES.items() if all(find_spec(package) for package in packages)]
