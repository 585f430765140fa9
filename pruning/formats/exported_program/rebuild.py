"""From the parsed program to the module: names become values, calls become layers or steps, in the file's own order.

A name is usable once it is defined and defined once, so that cycles and undefined values cannot be written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import torch

from pruning.formats.errors import FormatError
from pruning.formats.exported_program.arguments import Arguments, Known, Mismatch
from pruning.formats.exported_program.layers import LAYERS, Call, is_own_counter
from pruning.formats.exported_program.operators import ATEN, CHECKS, NUMBER_OPERATORS, OPERATORS, why_not
from pruning.formats.exported_program.program import INPUT, Attribute, Program, Step, Value, needed
from pruning.formats.exported_program.recurrent import RECURRENT
from pruning.formats.exported_program.schema import ExportedProgram, Graph, Node, Signature, TensorMeta
from pruning.formats.exported_program.state import State, furnish
from pruning.formats.exported_program.tensors import DTYPES, StoredTensor

EXPORT_LINE = 'torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))'
RULES = LAYERS | RECURRENT
_DEVICE = "device"
_FRAME = re.compile(r'File "([^"\n]{1,400})", line (\d{1,9}), in ([\w<>]{1,100})')
_PATH = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+){0,31}")


def rebuild(
    parsed: ExportedProgram, weights: Mapping[str, StoredTensor], constants: Mapping[str, StoredTensor]
) -> Program:
    """
    Raises:
        FormatError: saying what cannot be read, where, and what to do.
    """
    graph, signature = parsed.graph_module.graph, parsed.graph_module.signature
    walk = _Walk(graph, State())
    input_name = _take_inputs(walk, signature, weights, constants)
    input_shape, input_dtype = _input_of(graph.tensor_values.get(input_name))
    for node in graph.nodes:
        walk.visit(node)
    output = _output_of(walk, signature)
    walk.check_whole()

    program = Program(needed(walk.steps, output), output, input_shape, input_dtype)
    furnish(program, walk.state)
    return program


def _take_inputs(
    walk: _Walk, signature: Signature, weights: Mapping[str, StoredTensor], constants: Mapping[str, StoredTensor]
) -> str:
    """Define the names of parameters, buffers and constants, and give that of the one input."""
    inputs = []
    for spec in signature.input_specs:
        if spec.parameter is not None:
            walk.define_stored(spec.parameter.arg.name, spec.parameter.parameter_name, weights)
        elif spec.buffer is not None:
            stored = weights if spec.buffer.persistent else constants
            walk.define_stored(spec.buffer.arg.name, spec.buffer.buffer_name, stored, not spec.buffer.persistent)
        elif spec.tensor_constant is not None:
            constant = spec.tensor_constant
            walk.define_stored(constant.arg.name, constant.tensor_constant_name, constants, transient=True)
        elif spec.user_input is not None:
            inputs.append(spec.user_input.arg)
    if len(inputs) != 1 or "as_tensor" not in inputs[0]:
        raise FormatError("program", f"takes {len(inputs)} inputs; export a module whose forward takes one tensor")
    name = str(inputs[0]["as_tensor"].get("name")) if isinstance(inputs[0]["as_tensor"], dict) else ""
    walk.define(name, Known(Value(INPUT), is_tensor=True, rank=walk.rank(name)))
    return name


def _input_of(meta: TensorMeta | None) -> tuple[tuple[int, ...], torch.dtype]:
    """(shape of one example, dtype)"""
    if meta is None or meta.dtype not in DTYPES or not meta.sizes:
        raise FormatError("program", "does not say what its input is; export it again")
    batch, *example = meta.sizes
    if batch.as_int is not None:
        raise FormatError(
            "program", f"was exported for a batch of exactly {batch.as_int}; export any batch size: {EXPORT_LINE}"
        )
    shape = tuple(size.as_int for size in example if size.as_int is not None)
    if len(shape) != len(example):
        raise FormatError("program", f"has an input of no fixed shape; let only the batch vary: {EXPORT_LINE}")
    return shape, DTYPES[meta.dtype]


def _output_of(walk: _Walk, signature: Signature) -> Value | Attribute:
    outputs = [spec.user_output.arg for spec in signature.output_specs if spec.user_output is not None]
    if len(outputs) != 1:
        raise FormatError(
            "program", f"returns {len(outputs)} values; export a module that returns one tensor of logits"
        )
    try:
        output: Value | Attribute = walk.arguments.read(outputs[0], "Tensor", "output")
    except Mismatch as error:
        raise FormatError("program", f"its output {error}; return one tensor of logits") from error
    if not isinstance(output, (Value, Attribute)):
        raise FormatError("program", "returns a number; return one tensor of logits")
    return output


class _Walk:
    """What is known so far, going through the nodes in order."""

    def __init__(self, graph: Graph, state: State) -> None:
        self.state = state
        self.names: dict[str, Known] = {}
        self.steps = [Step(attrgetter("device"), (Value(INPUT),), {}, ((_DEVICE, ()),), "its input")]
        self.arguments = Arguments(self.names, device=lambda: Value(_DEVICE))
        self._metas = graph.tensor_values
        self._counters: set[str] = set()
        self._modes: dict[bool, str] = {}

    def rank(self, name: str) -> int | None:
        meta = self._metas.get(name)
        return None if meta is None else len(meta.sizes)

    def define(self, name: str, known: Known) -> None:
        if name in self.names or not name.isidentifier():
            raise FormatError("program", f"has a second or no plain value {name[:60]!r}; export it again")
        self.names[name] = known

    def define_stored(self, name: str, key: str, stored: Mapping[str, StoredTensor], transient: bool = False) -> None:
        if key not in stored:
            raise FormatError(key, "is used and not stored; save the whole program with torch.export.save")
        if key in self.state.stored:
            raise FormatError(key, "is an input of the program twice; export it again")
        self.state.stored[key] = stored[key]
        if transient:
            self.state.transient.add(key)
        self.define(name, Known(Attribute(key), is_tensor=True, rank=stored[key].tensor.dim()))

    def visit(self, node: Node) -> None:
        if node.target in CHECKS:
            return
        place = _place(node)
        try:
            if node.target in NUMBER_OPERATORS:
                self._number(node, place)
            elif node.target in OPERATORS:
                self._operator(node, place)
            else:
                raise Mismatch(why_not(node.target))
        except Mismatch as error:
            word = "" if node.target not in OPERATORS else f"{node.target.removeprefix(ATEN)} "
            raise FormatError("program", f"{word}{error} (in {place})") from error

    def _number(self, node: Node, place: str) -> None:
        args = tuple(self.arguments.numbers(node.inputs))
        name = _one_name(node.outputs, ("as_sym_int", "as_sym_bool", "as_sym_float"))
        self.steps.append(Step(NUMBER_OPERATORS[node.target], args, {}, ((_value(name), ()),), place))
        self.define(name, Known(Value(_value(name)), is_tensor=False))

    def _operator(self, node: Node, place: str) -> None:
        operator = OPERATORS[node.target]
        schema = operator._schema
        bound = self.arguments.bind(schema, node.inputs)
        name = node.target.removeprefix(ATEN)
        path, module_type = _module_of(node)
        call = Call(name, bound, path, module_type, self._first_rank(node))

        if name == "add_.Tensor" and is_own_counter(call):
            self._counters.add(bound["self"].path)
            self.define(_one_name(node.outputs, ("as_tensor",)), Known(bound["self"], is_tensor=True))
            return
        self._refuse_writing_state(schema, bound)
        self._note_mode(name, bound, place)

        lifted = RULES[name](call, self.state) if name in RULES else None
        if lifted is not None:
            results = self._results(node, schema, lifted.results)
            self.steps.append(Step(lifted.path, lifted.inputs, {}, results, place))
            return
        returns = tuple((index,) for index in range(len(schema.returns))) if len(schema.returns) > 1 else ((),)
        results = self._results(node, schema, returns)
        args, kwargs = _as_written(schema, bound, {argument.name for argument in node.inputs})
        self.steps.append(Step(operator, args, kwargs, results, place, mutates=schema.is_mutable))

    def _results(
        self, node: Node, schema: torch._C.FunctionSchema, paths: tuple[tuple[int, ...], ...]
    ) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Define the names of what a call returns."""
        if len(node.outputs) != len(schema.returns):
            raise Mismatch(f"returns {len(schema.returns)} values, not {len(node.outputs)}")
        results = []
        for output, returned, path in zip(node.outputs, schema.returns, paths, strict=True):
            ((kind, value),) = output.items()
            wanted = str(returned.real_type)
            if kind == "as_tensors" and wanted == "List[Tensor]" and isinstance(value, list):
                parts = [({"as_tensor": item}, (*path, index)) for index, item in enumerate(value)]
            elif (kind, wanted) in (("as_tensor", "Tensor"), ("as_sym_int", "int")):
                parts = [(output, path)]
            elif kind == "as_none":
                continue
            else:
                raise Mismatch(f"returns a {wanted}, not {kind[:40]!r}")
            for part, where in parts:
                name = _one_name([part], ("as_tensor", "as_sym_int"))
                self.define(name, Known(Value(_value(name)), kind != "as_sym_int", self.rank(name)))
                results.append((_value(name), where))
        return tuple(results)

    def _first_rank(self, node: Node) -> int | None:
        for argument in node.inputs:
            if isinstance(argument.arg.get("as_tensor"), dict):
                known = self.names.get(str(argument.arg["as_tensor"].get("name")))
                return None if known is None else known.rank
        return None

    def _refuse_writing_state(self, schema: torch._C.FunctionSchema, bound: dict[str, Any]) -> None:
        for argument in schema.arguments:
            written = argument.alias_info is not None and argument.alias_info.is_write
            if written and isinstance(bound[argument.name], Attribute):
                raise Mismatch(f"changes {bound[argument.name].path} in the forward pass; only batch-norm layers may")

    def _note_mode(self, name: str, bound: dict[str, Any], place: str) -> None:
        """Layers are exported as training or evaluating; which of them stay so cannot be told, so all must agree."""
        mode = None
        if name == "batch_norm.default" and bound["running_mean"] is not None:
            mode = bound["training"]
        elif "train" in bound and name in RULES:
            mode = bound["train"]
        if not isinstance(mode, bool):
            return
        self._modes.setdefault(mode, place)
        if len(self._modes) == 2:
            raise FormatError(
                "program",
                f"was exported training in {self._modes[True]} and evaluating in {self._modes[False]}; call "
                "model.train() or model.eval() on the whole model just before torch.export.export",
            )

    def check_whole(self) -> None:
        for counter in sorted(self._counters):
            if counter.rpartition(".")[0] not in self.state.layers:
                raise FormatError(counter, "is counted outside of a batch-norm layer; use nn.BatchNorm1d, 2d or 3d")


def _as_written(
    schema: torch._C.FunctionSchema, bound: dict[str, Any], given: set[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(positional, keyword) arguments, without the defaults behind the last one given."""
    positional = [argument.name for argument in schema.arguments if not argument.kwarg_only]
    while positional and positional[-1] not in given:
        positional.pop()
    args = tuple(bound[name] for name in positional)
    return args, {a.name: bound[a.name] for a in schema.arguments if a.kwarg_only and a.name in given}


def _value(name: str) -> str:
    return f"v_{name}"


def _one_name(outputs: list[dict[str, Any]], kinds: tuple[str, ...]) -> str:
    if len(outputs) == 1:
        ((kind, value),) = outputs[0].items()
        key = "name" if kind == "as_tensor" else "as_name"
        if kind in kinds and isinstance(value, dict) and isinstance(value.get(key), str):
            name: str = value[key]
            return name
    raise Mismatch(f"does not return one of {', '.join(kinds)}")


def _module_of(node: Node) -> tuple[str, str]:
    """(path, class) of the module that made the call, as far as the file says so."""
    parts = node.metadata.nn_module_stack.rpartition(";")[2].split(",")
    path = re.sub(r"@\d+$", "", parts[1]) if len(parts) == 3 else ""  # the second call of a module says path@1
    return (path, parts[2].rpartition(".")[2]) if _PATH.fullmatch(path) else ("", "")


def _place(node: Node) -> str:
    """The last line of the user's own source, by the node's stack trace."""
    frames = _FRAME.findall(node.metadata.stack_trace[:100_000])
    own = [frame for frame in frames if not re.search(r"(^|/)torch/", frame[0])] or frames
    return "{}, line {}, in {}".format(*own[-1]) if own else "the program"
