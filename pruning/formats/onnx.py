"""A module to an ONNX file, checked with ONNX Runtime against the module itself. Needs the extra `onnx`.

torch's own exporter makes it of the same exported program that is written as `.pt2`. What its notes would tell of this
machine (paths, lines of source) is taken out.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning.evaluation import evaluating
from pruning.formats.exported_program.writing import export_program
from pruning.inputs import noise
from pruning.randomness import generator

TOLERANCE = 1e-4
"""Of the outputs, relative to the largest of a batch: float32 summed in another order, over many layers."""
BATCH_SIZES = (1, 3)
"""That both are asked for. The file takes any; a fixed one would fail at the second."""
INPUT, OUTPUT, BATCH = "inputs", "outputs", "batch"
"""The names in the file."""


class OnnxError(ValueError):
    """The file does not compute what the network does; the message says by how much."""


def write_onnx(path: Path, module: nn.Module, input_shape: Sequence[int]) -> dict[str, Any]:
    """The evaluation of `module`, for any batch size, as one ONNX file with its weights inside.

    Args:
        input_shape: of one example. A module's `input_dtype`, if it has one, is that of the examples.

    Returns:
        How it was checked, JSON-able: max_difference (of all outputs, absolute), largest_output, tolerance (relative to
        the largest output of a batch), batch_sizes, opset, runtime.

    Raises:
        OnnxError: ONNX Runtime's outputs differ.
        RuntimeError, ValueError: the exporter cannot express the module, or it has 2 GiB, more than one file holds.
    """
    program = export_program(module, input_shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, of how torch itself will change
        made = torch.onnx.export(
            program, (), dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False, optimize=True
        )
    if made is None:
        raise OnnxError("torch's exporter made nothing")
    _name_the_batch(made)
    _leave_out_notes(made.model)
    made.save(path, external_data=False)
    return {**_check(path, module, input_shape), "opset": made.model.opset_imports[""]}


def _name_the_batch(made: Any) -> None:
    """torch numbers what is free; a reader of the file sees a name."""
    first = made.model.graph.inputs[0].shape[0]
    made.rename_axes({str(first): BATCH})


def _leave_out_notes(model: Any) -> None:
    graph = model.graph
    for noted in (model, graph, *graph.inputs, *graph.outputs, *graph.initializers.values()):
        noted.metadata_props.clear()
    for node in graph.all_nodes():
        node.doc_string = None
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()


def _check(path: Path, module: nn.Module, input_shape: Sequence[int]) -> dict[str, Any]:
    import onnxruntime  # not every worker has it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    furthest = largest = 0.0
    for batch in BATCH_SIZES:
        inputs = noise(module, batch, input_shape, generator(0, "onnx", batch))
        with evaluating(module), torch.no_grad():
            expected: Tensor = module(inputs)
        outputs = torch.from_numpy(session.run([OUTPUT], {INPUT: inputs.numpy()})[0])
        if outputs.shape != expected.shape:
            raise OnnxError(f"gives outputs of the shape {tuple(outputs.shape)} instead of {tuple(expected.shape)}")
        difference, scale = float((outputs - expected).abs().max()), float(expected.abs().max())
        if not difference <= TOLERANCE * scale:  # not a number is no agreement
            raise OnnxError(
                f"ONNX Runtime's outputs differ from the network's by {difference:.3g}; the largest is {scale:.3g}"
            )
        furthest, largest = max(furthest, difference), max(largest, scale)
    return {
        "max_difference": furthest,
        "largest_output": largest,
        "tolerance": TOLERANCE,
        "batch_sizes": list(BATCH_SIZES),
        "runtime": f"onnxruntime {onnxruntime.__version__}",
    }
