"""A network of your own as one file that the service reads: `torch.export`, done the way it must be for training.

The file carries weights and a list of torch's own operators. Your source stays with you: of it go only the names of
classes, functions and files, and line numbers, so that the service can say where something is that it cannot read.
"""

from __future__ import annotations

import inspect
import os
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import dropwhile
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from espalier.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

LEAST_TORCH = (2, 9)
"""Older versions write weights as pickles, which the service refuses."""
_FRAME = re.compile(r'File "([^"\n]+)", line (\d+), in ([\w<>]+)')
_RANDOM = re.compile(r"aten\.(bernoulli|rand|randn|randint|randperm|uniform|normal|multinomial|exponential|rrelu)")
_DECIDES = "aten.item.default", "aten._local_scalar_dense.default", "aten.nonzero.default", "aten.masked_select.default"


def export_model(module: nn.Module, example_inputs: Any, path: Path | str, *, training: bool | None = None) -> Path:
    """Write `module` to `path` (.pt2), for any batch size. The module is left as it is.

    Args:
        example_inputs: a batch as the module takes it, (n, ...): a tensor, an array, or a tuple of one of them. Its
            values do not matter, its shape and dtype do: float32, or int64 for tokens.
        training: what is recorded. The service trains and evaluates either way; the training mode, recorded if
            nothing else is said, is the more faithful. A module that draws at random when it trains other than by
            dropout (stochastic depth) would have one draw baked in: it is recorded evaluating, with a warning.

    Raises:
        ExportError: what in the module cannot be exported, where in its source, and what to write instead.
    """
    _check_torch()
    inputs = _batch_of_two(example_inputs)
    _check_module(module)
    _check_forward(module)
    if training is None:
        program = _exported(module, inputs, training=True)
        if place := _place_of_randomness(program):
            warnings.warn(
                f"{place} draws at random in training mode, which a program cannot carry; exported in evaluation mode, "
                "without it. Dropout layers stay as they are, dropout inside attention does not",
                stacklevel=2,
            )
            program = _exported(module, inputs, training=False)
    else:
        program = _exported(module, inputs, training=training)
    _check_graph(program)
    _strip(program)
    return _save(program, Path(path))


def _check_torch() -> None:
    try:
        import torch
    except ImportError as error:
        raise ExportError("torch is not installed here; pip install 'espalier[torch]'") from error
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < LEAST_TORCH:
        raise ExportError(f"torch {torch.__version__} writes weights as pickles; upgrade it: pip install 'torch>=2.9'")


def _batch_of_two(example_inputs: Any) -> Tensor:
    """Of one example torch would take the batch for fixed: it is doubled."""
    import torch

    if isinstance(example_inputs, (tuple, list)):
        if len(example_inputs) != 1:
            raise ExportError(
                f"{len(example_inputs)} inputs; the service takes modules of one input: export_model(m, x)"
            )
        (example_inputs,) = example_inputs
    inputs = torch.as_tensor(example_inputs)
    if inputs.dim() < 2 or inputs.numel() == 0:
        raise ExportError(f"example_inputs has shape {tuple(inputs.shape)}; give a batch, (n, ...): x.unsqueeze(0)")
    if inputs.dtype not in (torch.float32, torch.int64, torch.int32):
        raise ExportError(f"example_inputs is {inputs.dtype}; give x.float(), or x.long() for tokens")
    return torch.cat([inputs, inputs]) if len(inputs) == 1 else inputs


def _check_module(module: nn.Module) -> None:
    import torch

    for name, parameter in module.named_parameters():
        if parameter.dtype != torch.float32:
            raise ExportError(f"{name} is {parameter.dtype}; the service trains in float32: model.float()")
        if not re.fullmatch(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*", name):
            raise ExportError(f"{name!r} has a name other than letters, digits and _; rename the module or parameter")


def _check_forward(module: nn.Module) -> None:
    try:
        signature = inspect.signature(module.forward)
    except (TypeError, ValueError):  # of a compiled module: torch.export says what it thinks of it
        return
    first = next(iter(signature.parameters.values()), None)
    try:
        signature.bind(None)
    except TypeError:
        first = None
    if first is None or first.kind is first.VAR_POSITIONAL:
        raise ExportError(
            f"{type(module).__name__}.forward takes {signature}; the service calls it with one tensor: wrap it in a "
            "module of forward(self, x), other arguments with defaults"
        )


def _exported(module: nn.Module, inputs: Tensor, training: bool) -> ExportedProgram:
    import torch

    parameter = next(module.parameters(), None)
    if parameter is not None:
        inputs = inputs.to(parameter.device)
    with _in_mode(module, training), warnings.catch_warnings():
        # Recurrent layers renew the list of their own weights when they run, which torch remarks upon.
        warnings.filterwarnings("ignore", message="The tensor attributes? .*was assigned|.*_flat_weights")
        try:
            return torch.export.export(module, (inputs,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        except Exception as error:  # torch.export lets through whatever the module raises, and much of its own
            raise _explained(error) from error


@contextmanager
def _in_mode(module: nn.Module, training: bool) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _explained(error: Exception) -> ExportError:
    text = str(error)
    place = _place(text) or _place_of(error)
    if "specialized it to be a constant" in text or "Constraints violated" in text:
        return ExportError(
            "the module only works for the batch size of the example; use x.shape[0] instead of a number or of len(x), "
            f"as in x.view(x.shape[0], -1) or x.flatten(1){place}"
        )
    if "data-dependent" in text:
        return ExportError(
            f"the module branches on the values of a tensor{place}; use torch.where(condition, a, b) instead of if, "
            "and no .item()"
        )
    first = next((line for line in text.splitlines() if line.strip()), "")[:300]
    return ExportError(f"torch.export cannot follow the module{place}: {type(error).__name__}: {first}")


def _place(text: str) -> str:
    """The innermost of the user's own lines that a text of torch's names."""
    own = [frame for frame in _FRAME.findall(text) if not _is_torch(frame[0])]
    return f" (in {own[-1][0]}, line {own[-1][1]})" if own else ""


def _place_of(error: Exception) -> str:
    """The innermost of the user's own lines that it came through: behind the first `forward`, torch's own aside."""
    frames = list(dropwhile(lambda frame: frame.name != "forward", traceback.extract_tb(error.__traceback__)))
    own = [frame for frame in frames if not _is_torch(frame.filename)]
    return f" (in {own[-1].filename}, line {own[-1].lineno})" if own else ""


def _is_torch(filename: str) -> bool:
    return "torch" in PurePath(filename).parts


def _place_of_randomness(program: ExportedProgram) -> str | None:
    for node in program.graph.nodes:
        if node.op == "call_function" and _RANDOM.match(str(node.target)):
            return f"{node.target}{_place(node.meta.get('stack_trace') or '')}"
    return None


def _check_graph(program: ExportedProgram) -> None:
    """What can be told here already; the service knows all that it cannot read, and says so when it validates."""
    outputs = program.graph_signature.user_outputs
    if len(outputs) != 1 or not program.call_spec.out_spec.is_leaf():
        what = f"{len(outputs)} values" if len(outputs) != 1 else "its output in a tuple or dict"
        raise ExportError(f"the module returns {what}; wrap it in one that returns the logits alone")
    for node in program.graph.nodes:
        place = _place(node.meta.get("stack_trace") or "")
        if node.op == "call_function" and _is_block(node.target):
            raise ExportError(
                f"the forward has a block of its own{place}: torch.no_grad, autocast, checkpointing or torch.cond; "
                "move it out of the forward, and write x.detach() for no_grad"
            )
        if node.op == "call_function" and str(node.target) in _DECIDES:
            raise ExportError(
                f"{node.target} reads values out of a tensor{place}; keep to tensors: x * y.sum() instead of "
                "x * y.sum().item(), torch.where(condition, a, b) instead of a choice"
            )


def _is_block(target: Any) -> bool:
    """An operator that runs a graph of its own, which a program is not read with."""
    from torch._ops import HigherOrderOperator

    return isinstance(target, HigherOrderOperator)


def _strip(program: ExportedProgram) -> None:
    """Sample inputs, which torch would pickle, and the text of the source; places stay, without their folders."""
    program._example_inputs = None
    for node in program.graph.nodes:
        frames = _FRAME.findall(node.meta.pop("stack_trace", None) or "")
        if frames:
            node.meta["stack_trace"] = "\n".join(
                f'File "{"/".join(PurePath(name).parts[-3:] if _is_torch(name) else PurePath(name).parts[-1:])}", '
                f"line {line}, in {function}"
                for name, line, function in frames
            )


def _save(program: ExportedProgram, path: Path) -> Path:
    """Written beside `path`, and renamed once it is whole."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.urandom(6).hex()}.pt2")
    try:
        torch.export.save(program, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path
