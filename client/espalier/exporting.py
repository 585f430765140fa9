"""A network of your own as one file that the service reads: `torch.export`, done the way it must be for training.

The file carries weights and a list of torch's own operators. Your source stays with you: of it go only the names of
classes, functions and files, and line numbers, so that the service can say where something is that it cannot read.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from espalier.errors import ExportError
from espalier.trying import check_forward, first_line, in_mode, is_own, place_of, taking_one_tensor, try_out

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

    It must give one tensor of logits, (n, classes) or (n, length, vocabulary) for tokens. Of an output with a field
    `logits`, as transformers' and torchvision's have, that is taken. A module that torch.compile, DataParallel or
    DistributedDataParallel is wrapped around is exported without it, and its parameters keep their names.

    Args:
        example_inputs: a batch as the module takes it, (n, ...): a tensor, an array, or a tuple of one of them. Its
            values do not matter, its shape and dtype do: float32, or int64 for tokens. A dict names the argument, and
            may give others fixed values: {"input_ids": ids, "use_cache": False}.
        training: what is recorded. The service trains and evaluates either way; the training mode, recorded if
            nothing else is said, is the more faithful. A module that draws at random when it trains other than by
            dropout (stochastic depth) would have one draw baked in: it is recorded evaluating, with a warning.

    Raises:
        ExportError: what in the module cannot be exported, where in its source, and what to write instead.
    """
    _check_torch()
    module = bare(module)
    given, name, constants = _one_of(example_inputs)
    inputs = _batch_of_two(given)
    _check_module(module)
    check_forward(module, name, constants)
    if (parameter := next(module.parameters(), None)) is not None:
        inputs = inputs.to(parameter.device)
    with taking_one_tensor(module, name, constants):
        try_out(module, inputs)
        program = _recorded(module, inputs, training)
    _strip(program)
    return _save(program, Path(path))


def _recorded(module: nn.Module, inputs: Tensor, training: bool | None) -> ExportedProgram:
    program = _exported(module, inputs, training=training is not False)
    if training is None and (place := _place_of_randomness(program)):
        warnings.warn(
            f"{place} draws at random in training mode, which a program cannot carry; exported in evaluation mode, "
            "without it. Dropout layers stay as they are, dropout inside attention does not",
            stacklevel=3,
        )
        program = _exported(module, inputs, training=False)
    _check_graph(program)
    return program


def bare(module: nn.Module) -> nn.Module:
    """The module inside what torch wraps around one."""
    import torch
    from torch.nn.parallel import DataParallel, DistributedDataParallel

    if isinstance(module, torch.jit.ScriptModule):
        raise ExportError("this is TorchScript, which holds no layers any more; export the module that it was made of")
    while True:
        if isinstance(module, (DataParallel, DistributedDataParallel)):
            module = module.module
        elif isinstance(inner := getattr(module, "_orig_mod", None), torch.nn.Module):
            module = inner
        else:
            return module


def _check_torch() -> None:
    try:
        import torch
    except ImportError as error:
        raise ExportError("torch is not installed here; pip install 'espalier[torch]'") from error
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < LEAST_TORCH:
        raise ExportError(f"torch {torch.__version__} writes weights as pickles; upgrade it: pip install 'torch>=2.9'")


def _one_of(example_inputs: Any) -> tuple[Any, str | None, dict[str, Any]]:
    """(the one batch, the name of its argument or None, the other arguments)"""
    if isinstance(example_inputs, Mapping):
        constants = {
            name: value
            for name, value in example_inputs.items()
            if value is None or isinstance(value, (bool, int, float, str))
        }
        names = [name for name in example_inputs if name not in constants]
        _check_number(len(names), names)
        return example_inputs[names[0]], names[0], constants
    if isinstance(example_inputs, (tuple, list)):
        _check_number(len(example_inputs), ())
        return example_inputs[0], None, {}
    return example_inputs, None, {}


def _check_number(count: int, names: Iterable[str]) -> None:
    if count != 1:
        which = f" ({', '.join(names)})" if names else ""
        raise ExportError(
            f"{count} inputs{which}; the service takes modules of one input: concatenate them and split them in the "
            "forward, or leave out what has a default, such as an attention mask"
        )


def _batch_of_two(given: Any) -> Tensor:
    """Of one example torch would take the batch for fixed: it is doubled."""
    import torch

    inputs = torch.as_tensor(given)
    if inputs.dim() < 2 or inputs.numel() == 0:
        raise ExportError(f"example_inputs has shape {tuple(inputs.shape)}; give a batch, (n, ...): x.unsqueeze(0)")
    if inputs.dtype not in (torch.float32, torch.int64, torch.int32):
        raise ExportError(f"example_inputs is {inputs.dtype}; give x.float(), or x.long() for tokens")
    return torch.cat([inputs, inputs]) if len(inputs) == 1 else inputs


def _check_module(module: nn.Module) -> None:
    import torch
    from torch.nn.parameter import is_lazy

    for name, parameter in module.named_parameters():
        if is_lazy(parameter):
            raise ExportError(f"{name} has no shape yet, as it belongs to a lazy layer; call the module once before")
        if parameter.dtype != torch.float32:
            raise ExportError(f"{name} is {parameter.dtype}; the service trains in float32: model.float()")
        if not re.fullmatch(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*", name):
            raise ExportError(f"{name!r} has a name other than letters, digits and _; rename the module or parameter")


def _exported(module: nn.Module, inputs: Tensor, training: bool) -> ExportedProgram:
    import torch

    with in_mode(module, training), warnings.catch_warnings():
        # Recurrent layers renew the list of their own weights when they run, which torch remarks upon.
        warnings.filterwarnings("ignore", message="The tensor attributes? .*was assigned|.*_flat_weights")
        try:
            return torch.export.export(module, (inputs,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        except Exception as error:  # torch.export lets through whatever the module raises, and much of its own
            raise _explained(error) from error


def _explained(error: Exception) -> ExportError:
    text = str(error)
    place = _place(text) or place_of(error)
    if "specialized it to be a constant" in text or "Constraints violated" in text:
        # It runs at another batch size, as was tried: the number is used, not assumed.
        return ExportError(
            "the module only works for the batch size of the example, once it is recorded: its forward makes a Python "
            "number of it, by a loop over the examples, int(x.shape[0]), x.tolist() or an if about it; write it for "
            f"the whole batch at once, and use x.shape[0] as it is{place}"
        )
    if "data-dependent" in text:
        return ExportError(
            f"the module branches on the values of a tensor{place}; use torch.where(condition, a, b) instead of if, "
            "and no .item()"
        )
    return ExportError(f"torch.export cannot follow the module{place}: {type(error).__name__}: {first_line(error)}")


def _place(text: str) -> str:
    """The innermost of the user's own lines that a text of torch's names."""
    own = [frame for frame in _FRAME.findall(text) if is_own(frame[0])]
    return f" (in {own[-1][0]}, line {own[-1][1]})" if own else ""


def _place_of_randomness(program: ExportedProgram) -> str | None:
    for node in program.graph.nodes:
        if node.op == "call_function" and _RANDOM.match(str(node.target)):
            return f"{node.target}{_place(node.meta.get('stack_trace') or '')}"
    return None


def _check_graph(program: ExportedProgram) -> None:
    """What can be told here already; the service knows all that it cannot read, and says so when it validates."""
    shared: set[Any] = set(program.graph.find_nodes(op="placeholder")[-1:])
    outputs = program.graph_signature.user_outputs
    if len(outputs) != 1 or not program.call_spec.out_spec.is_leaf():
        what = f"{len(outputs)} values" if len(outputs) != 1 else "its output in a tuple or dict"
        raise ExportError(f"the module returns {what}; wrap it in one that returns the logits alone")
    for node in program.graph.nodes:
        place = _place(node.meta.get("stack_trace") or "")
        if node.args and node.args[0] in shared and (alias := _alias_of_first(node.target)) is not None:
            if alias:
                raise ExportError(
                    f"the forward changes its own input{place}, and so the dataset; write x = x + 1 instead of x += 1, "
                    "or begin with x = x.clone()"
                )
            shared.add(node)  # a view of the input
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


def _alias_of_first(target: Any) -> bool | None:
    """Whether an operator writes to its first argument (True) or gives a view of it (False); None: neither."""
    schema = getattr(target, "_schema", None)
    alias = schema.arguments[0].alias_info if schema is not None and schema.arguments else None
    return None if alias is None else bool(alias.is_write)


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
                f'File "{"/".join(PurePath(name).parts[-3:] if not is_own(name) else PurePath(name).parts[-1:])}", '
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
