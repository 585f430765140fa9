# ruff: noqa: ARG001 (rules share one signature)
"""The walk that finds the unit groups: each operation of the graph has a rule for what it does to units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod

from torch import Tensor, fx, nn

from pruning.graph import LAYER_TYPES, PrunableModule, canonical_names, operation, shape_of, trace_with_shapes
from pruning.units import Slice, UnitGroup


def find_units(model: nn.Module, example: Tensor) -> tuple[list[UnitGroup], dict[str, str]]:
    """(the groups of units that can be pruned, in graph order; for every other layer, why not).

    Args:
        example: (n, ...) inputs to run the model on once, n at least 2 if the model normalises by batch.

    Raises:
        UntraceableError: the model cannot be followed as a graph.
    """
    walk = _Walk(model, trace_with_shapes(model, example))
    for node in walk.nodes:
        walk.visit(node)
    groups: list[UnitGroup] = []
    reasons: dict[str, str | None] = {}
    for draft in walk.drafts:
        if draft.reason is None and draft.into is None:
            groups.append(draft.finished())
        reasons |= dict.fromkeys(draft.layers, draft.root().reason)
    return groups, {layer: reason for layer, reason in reasons.items() if reason is not None}


@dataclass(eq=False)
class _Draft:
    """A group in the making. `into` is the group that it turned out to be the same as."""

    size: int
    layers: list[str]
    incoming: list[Slice] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    activations: list[Slice] = field(default_factory=list)
    raw: list[Slice] = field(default_factory=list)
    reason: str | None = None
    into: _Draft | None = None

    def root(self) -> _Draft:
        return self if self.into is None else self.into.root()

    def absorb(self, other: _Draft) -> None:
        other.into = self
        self.layers += other.layers
        self.incoming += other.incoming
        self.slices += other.slices
        self.activations += other.activations
        self.raw += other.raw
        self.reason = self.reason or other.reason

    def finished(self) -> UnitGroup:
        # Without any activation function, a unit is active where its layer, or the normalisation after it, ends.
        activations = self.activations or self.raw
        slices = tuple(dict.fromkeys(self.slices))
        return UnitGroup(
            self.layers[0], self.size, tuple(self.layers), tuple(self.incoming), slices, tuple(activations)
        )


@dataclass(frozen=True)
class _Flow:
    """A node's tensor carries a group's units along dimension `dim`, each over `span` neighbouring indices."""

    draft: _Draft
    dim: int
    span: int = 1

    @property
    def group(self) -> _Draft:
        return self.draft.root()


class _Walk:
    """Flows per node, and the groups so far."""

    def __init__(self, model: nn.Module, graph_module: fx.GraphModule) -> None:
        self.nodes = list(graph_module.graph.nodes)
        self.modules = dict(graph_module.named_modules(remove_duplicate=False))
        self.names = canonical_names(model)
        self.drafts: list[_Draft] = []
        self.flows: dict[fx.Node, _Flow | None] = {}
        self.uses = self._count_uses()

    def visit(self, node: fx.Node) -> None:
        if node.op in ("placeholder", "get_attr"):
            return
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, LAYER_TYPES):
            self.flows[node] = self._layer(node, module)
            return
        incoming = [flow for source in node.all_input_nodes if (flow := self.flows.get(source)) is not None]
        if not incoming:
            return
        if node.op == "output":
            self._pin(incoming, "its units are the model's outputs")
            return
        if "tensor_meta" not in node.meta:
            return  # a size or another plain value, which says nothing of units
        rule = RULES.get(operation(node, self.modules))
        flow = rule(self, node, incoming) if rule is not None and shape_of(node) is not None else None
        if flow is None:
            self._pin(incoming, f"its units cannot be followed through {node.name} ({operation(node, self.modules)})")
        self.flows[node] = flow

    def _layer(self, node: fx.Node, module: PrunableModule) -> _Flow | None:
        """Consumes the units of its input and starts units of its own."""
        path, shape = str(node.target), _shape(node)
        is_linear = isinstance(module, nn.Linear)
        dim = len(shape) - 1 if is_linear else 1
        weight = self.names[f"{path}.weight"]
        again = next((known for known in self.drafts if path in known.layers), None)
        draft = again or _Draft(module.weight.shape[0], [path])
        slices = [Slice(self.names[name], 0) for name in (f"{path}.weight", f"{path}.bias") if name in self.names]
        if again is None:
            self.drafts.append(draft)
            draft.incoming, draft.slices, draft.raw = slices[:1], slices, [Slice(node.name, dim)]

        reason = None
        if not isinstance(module, nn.Linear) and module.groups > 1:
            reason = f"{path} is a grouped convolution"
        elif self.uses[weight] > 1:
            reason = f"the weights of {path} are used more than once"
        source = node.all_input_nodes[0]
        consumed = self.flows.get(source)
        if consumed is not None:
            if reason is not None:
                self._pin([consumed], f"it feeds {path}: {reason}")
            elif consumed.dim != (len(_shape(source)) - 1 if is_linear else 1):
                self._pin([consumed], f"its units lie across the inputs of {path}")
            else:
                consumed.group.slices.append(Slice(weight, 1, consumed.span))
        draft.reason = reason
        return _Flow(draft, dim)

    def _pin(self, flows: list[_Flow], reason: str) -> None:
        for flow in flows:
            flow.group.reason = flow.group.reason or reason

    def _count_uses(self) -> dict[str, int]:
        """How often the graph uses each parameter, under its first name."""
        uses = dict.fromkeys(self.names.values(), 0)
        for node in self.nodes:
            if node.op == "call_module":
                used = [f"{node.target}.{name}" for name, _ in self.modules[str(node.target)].named_parameters()]
            else:
                used = [str(node.target)] if node.op == "get_attr" and str(node.target) in self.names else []
            for name in used:
                uses[self.names[name]] += 1
        return uses


def _shape(node: fx.Node) -> tuple[int, ...]:
    shape = shape_of(node)
    assert shape is not None
    return tuple(shape)


# The rules: (walk, node, flows of its inputs) -> the flow of its output; None where units cannot be followed.


def _passes(walk: _Walk, node: fx.Node, flows: list[_Flow]) -> _Flow | None:
    return flows[0]


def _activates(walk: _Walk, node: fx.Node, flows: list[_Flow]) -> _Flow | None:
    flow = flows[0]
    flow.group.activations.append(Slice(node.name, flow.dim, flow.span))
    return flow


def _normalises(walk: _Walk, node: fx.Node, flows: list[_Flow]) -> _Flow | None:
    flow, path = flows[0], str(node.target)
    if node.op != "call_module" or flow.dim != 1 or f"{path}.weight" not in walk.names:
        return None  # without a scale and shift to mask, normalised zeros would not be zero
    parameters = [walk.names[f"{path}.weight"], walk.names[f"{path}.bias"]]
    if walk.uses[parameters[0]] > 1:
        return None
    flow.group.slices += [Slice(name, 0, flow.span) for name in parameters]
    source = node.all_input_nodes[0].name
    flow.group.raw = [Slice(node.name, s.dim, s.span) if s.name == source else s for s in flow.group.raw]
    return flow


def _pools(walk: _Walk, node: fx.Node, flows: list[_Flow]) -> _Flow | None:
    return flows[0] if flows[0].dim == 1 and _shape(node)[1] == _shape(node.all_input_nodes[0])[1] else None


def _averages(walk: _Walk, node: fx.Node, flows: list[_Flow]) -> _Flow | None:
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    rank = len(_shape(node.all_input_nodes[0]))
    averaged = [dims] if isinstance(dims, int) else dims if isinstance(dims, (list, tuple)) else [0]
    behind = all(isinstance(dim, int) and dim % rank > flows[0].dim for dim in averaged)
    return flows[0] if behind else None


def _reshapes(walk: _Walk, node: fx.Node, flows: list[_Flow]) -> _Flow | None:
    """The same shape again, or everything behind the batch flattened: each unit then spans what lay behind it."""
    before, after = _shape(node.all_input_nodes[0]), _shape(node)
    if after == before:
        return flows[0]
    if flows[0].dim == 1 and after == (before[0], prod(before[1:])):
        return _Flow(flows[0].draft, 1, flows[0].span * prod(before[2:]))
    return None


def _adds(walk: _Walk, node: fx.Node, flows: list[_Flow]) -> _Flow | None:
    """A sum of two layers' outputs makes their units one; a plain number added would make pruned units live."""
    sources = node.all_input_nodes
    if len(sources) != 2 or len(flows) != 2 or _shape(sources[0]) != _shape(sources[1]):
        return None
    one, other = flows
    if (one.dim, one.span) != (other.dim, other.span) or one.group.size != other.group.size:
        return None
    if one.group is not other.group:
        first, second = sorted((one.group, other.group), key=walk.drafts.index)
        first.absorb(second)
    return one


_Rule = Callable[[_Walk, fx.Node, list[_Flow]], _Flow | None]

RULES: dict[str, _Rule] = {
    **dict.fromkeys(
        (
            *("relu", "relu6", "leakyrelu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardtanh", "hardswish"),
            *("tanh", "softsign", "sigmoid", "hardsigmoid", "softplus"),
        ),
        _activates,
    ),
    **dict.fromkeys(
        ("identity", "dropout", "dropout1d", "dropout2d", "dropout3d", "contiguous", "clone", "detach"), _passes
    ),
    **dict.fromkeys(("batchnorm1d", "batchnorm2d", "batchnorm3d"), _normalises),
    **dict.fromkeys(
        [f"{kind}pool{n}d" for kind in ("max", "avg", "adaptivemax", "adaptiveavg") for n in (1, 2, 3)], _pools
    ),
    **dict.fromkeys(("flatten", "view", "reshape", "squeeze"), _reshapes),
    **dict.fromkeys(("add", "iadd"), _adds),
    "mean": _averages,
}
