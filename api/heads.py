"""A first look at a file, by its first bytes: what can be refused at once need not be stored.

Whether the rest is good is for a worker to say, in its sandbox.
"""

from __future__ import annotations

import re

from api.problems import Problem

PROGRAM = "exported_program"
MODEL_FORMATS = (PROGRAM, "safetensors", "architecture")
DATASET_FORMATS = ("npz", "safetensors")

_EXPORT = "export it where it comes from: espalier.export_model(model, example_inputs, 'model.pt2')"
_CONVERT = "convert it where it comes from: safetensors.torch.save_file(model.state_dict(), path)"
_ELSEWHERE = {
    "onnx": f"ONNX files are not taken, because their training cannot be restored faithfully; {_EXPORT}",
    "pickle": f"pickles run code when they are loaded; {_EXPORT}",
    "torch": f"pickles run code when they are loaded; {_EXPORT}",
    "torchscript": f"TorchScript can read and write files when it is loaded; {_EXPORT}",
    "state_dict": f"pickles run code when they are loaded; {_CONVERT}, then format=safetensors and architecture=",
    **dict.fromkeys(
        ("keras", "h5", "tensorflow", "tf", "tflite", "saved_model", "gguf", "coreml", "openvino", "mlmodel", "jax"),
        f"only PyTorch's networks are taken; build the network in PyTorch, load its weights into it, and {_EXPORT}",
    ),
}

_SIGNATURES = (
    # (where, what is there, what it is)
    (0, b"GGUF", "a GGUF file"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes them"),
    (4, b"TFL3", "a TensorFlow Lite file"),
    (4, b"ORTM", "an ONNX Runtime file"),
    (0, b"\x08\x01\x12", "a TensorFlow SavedModel"),
    (0, b"<?xml", "an XML file, as OpenVINO writes them"),
)
_ONNX = re.compile(rb"\x08[\x01-\x3f](?:[\x12\x1a\x2a\x32](?s:.)|[\x3a\x42])")
"""A protobuf that begins with a small version, then producer, domain, notes, graph or operator set."""
_ZIPPED = (
    (b"metadata.json", "a Keras file"),
    (b"config.json", "a Keras file"),
)

_MAX_HEADER_BYTES = 100_000_000
"""What the safetensors library takes."""
_ZIP, _EMPTY_ZIP, _NPY, _PICKLE = b"PK\x03\x04", b"PK\x05\x06", b"\x93NUMPY", b"\x80"


def check_model_format(format: str) -> None:
    if format not in MODEL_FORMATS:
        remedy = _ELSEWHERE.get(format, f"use one of {', '.join(MODEL_FORMATS)}")
        raise Problem("unsupported_format", f"{format!r}: {remedy}", param="query:format")


def check_dataset_format(format: str) -> None:
    if format not in DATASET_FORMATS:
        raise Problem(
            "unsupported_format", f"{format!r}: use one of {', '.join(DATASET_FORMATS)}", param="query:format"
        )


def look_at_model(format: str, head: bytes, size_bytes: int | None) -> None:
    if _is_safetensors(head, size_bytes):
        if format == PROGRAM:
            raise Problem(
                "invalid_content",
                "this looks like safetensors; set format=safetensors and name its architecture=",
                param="query:format",
            )
        return
    _refuse_other_kinds(head)
    if format == PROGRAM and head.startswith(_ZIP):
        return  # torch.save writes zips too: a worker tells them apart
    if head.startswith((_ZIP, _EMPTY_ZIP, _PICKLE)):
        remedy = _EXPORT if format == PROGRAM else f"{_CONVERT}; of an exported program, set format={PROGRAM}"
        raise Problem(
            "unsupported_format",
            f"this is a zip or a pickle, as torch.save writes them, which would run code when loaded; {remedy}",
            param="",
        )
    raise _no_program() if format == PROGRAM else _not_safetensors()


def _refuse_other_kinds(head: bytes) -> None:
    """Networks of other frameworks, by their first bytes, whatever format= says."""
    if head.startswith(_ZIP):
        first_name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
        what = next((what for name, what in _ZIPPED if first_name == name), None)
    else:
        what = next((what for at, sign, what in _SIGNATURES if head[at : at + len(sign)] == sign), None)
        if what is None and _ONNX.match(head):
            raise Problem("unsupported_format", f"this looks like an ONNX file: {_ELSEWHERE['onnx']}", param="")
    if what is not None:
        raise Problem("unsupported_format", f"this is {what}: {_ELSEWHERE['keras']}", param="")


def look_at_dataset(format: str, head: bytes, size_bytes: int | None) -> None:
    if format == "safetensors":
        if _is_safetensors(head, size_bytes):
            return
        if head.startswith(_ZIP):
            raise Problem("invalid_content", "this looks like an npz file; set format=npz", param="query:format")
        _refuse_pickle(head)
        raise _not_safetensors()
    if head.startswith(_ZIP):
        return
    if _is_safetensors(head, size_bytes):
        raise Problem("invalid_content", "this looks like safetensors; set format=safetensors", param="query:format")
    _refuse_pickle(head)
    what = "a single array" if head.startswith(_NPY) else "no npz file, which begins as a zip does"
    raise Problem(
        "invalid_content",
        f"this is {what}; write it with numpy.savez(path, **{{'train.inputs': ..., 'train.targets': ...}})",
        param="",
    )


def _is_safetensors(head: bytes, size_bytes: int | None) -> bool:
    """Eight bytes of length, then that much JSON. Asked before anything else: a length may begin as a pickle does."""
    header_bytes = int.from_bytes(head[:8], "little")
    fits = size_bytes is None or 8 + header_bytes <= size_bytes
    return head[8:9] == b"{" and 2 <= header_bytes <= _MAX_HEADER_BYTES and fits


def _refuse_pickle(head: bytes) -> None:
    if head.startswith(_PICKLE):
        raise Problem(
            "unsupported_format",
            "this is a pickle, which would run code when loaded; write the arrays with numpy.savez",
            param="",
        )


def _no_program() -> Problem:
    return Problem("invalid_content", f"this is no .pt2 file, which begins as a zip does; {_EXPORT}", param="")


def _not_safetensors() -> Problem:
    return Problem(
        "invalid_content",
        "this is no safetensors file, or one cut off: its header has no sensible length; write it again with "
        "safetensors.torch.save_file and upload it whole",
        param="",
    )
