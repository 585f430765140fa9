"""What each operation does to units: one rule an operation, for the walk of `unit_flow`.

An operation without a rule, or whose rule gives None, cannot be followed, and the units that enter it are not prunable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from torch import fx

from pruning.graph import operation, shape_of
from pruning.unit_drafts import Flow, Trail


def shape(node: fx.Node) -> tuple[int, ...]:
    found = shape_of(node)
    assert found is not None
    return tuple(found)


# The rules: (trail, node, what its first input carries) -> what it carries; None where units cannot be followed.


def _passes(_trail: Trail, _node: fx.Node, flows: list[Flow]) -> list[Flow] | None:
    return flows


def _activates(_trail: Trail, node: fx.Node, flows: list[Flow]) -> list[Flow] | None:
    """Behind a concatenation, each group is active in its own part."""
    for flow in flows:
        flow.group.activations.append(flow.slice_of(node.name, flow.dim))
    return flows


def _activates_from_zero(trail: Trail, node: fx.Node, flows: list[Flow]) -> list[Flow] | None:
    """f(0) may be other than 0. What is masked reaches nobody all the same, its outgoing weights being masked too."""
    for flow in flows:
        flow.group.keeps_zero = False
    return _activates(trail, node, flows)


def _normalises(trail: Trail, node: fx.Node, flows: list[Flow]) -> list[Flow] | None:
    path = str(node.target)
    if node.op != "call_module" or f"{path}.weight" not in trail.names or any(flow.dim != 1 for flow in flows):
        return None  # without a scale and shift to mask, normalised zeros would not be zero
    weight, bias = trail.names[f"{path}.weight"], trail.names[f"{path}.bias"]
    if max(trail.uses[weight], trail.uses[bias]) > 1:
        return None
    buffers = [f"{path}.{name}" for name, buffer in trail.modules[path].named_buffers() if buffer.dim() == 1]
    for flow in flows:
        flow.group.slices += [flow.slice_of(name, 0) for name in (weight, bias)]
        flow.group.buffers += [flow.slice_of(name, 0) for name in buffers]
        _moves_raw(flow, node.all_input_nodes[0], flow, node)
    return flows


def _pools(_trail: Trail, node: fx.Node, flows: list[Flow]) -> list[Flow] | None:
    """Pooling and resizing of what lies behind the units."""
    same_width = shape(node)[1] == shape(node.all_input_nodes[0])[1]
    return flows if same_width and all(flow.dim == 1 for flow in flows) else None


def _pads(trail: Trail, node: fx.Node, flows: list[Flow]) -> list[Flow] | None:
    """With zeros, behind the units."""
    if node.op == "call_module":
        module = trail.modules[str(node.target)]
        pads, values = getattr(module, "padding", None), [getattr(module, "value", None)]
    else:
        # Behind the widths, a mode or a value or both, as the one who called wrote them.
        pads, values = _argument(node, 1, "pad"), [*node.args[2:], node.kwargs.get("value")]
    is_zero = not any(value for value in values if not isinstance(value, str))
    behind = len(shape(node)) - 1 - max(flow.dim for flow in flows)
    return flows if isinstance(pads, (list, tuple)) and len(pads) <= 2 * behind and is_zero else None


def _averages(_trail: Trail, node: fx.Node, flows: list[Flow]) -> list[Flow] | None:
    dims = _argument(node, 1, "dim")
    rank = len(shape(node.all_input_nodes[0]))
    averaged = [dims] if isinstance(dims, int) else dims if isinstance(dims, (list, tuple)) else [0]
    behind = all(isinstance(dim, int) and dim % rank > flow.dim for dim in averaged for flow in flows)
    return flows if behind else None


def _reshapes(_trail: Trail, node: fx.Node, flows: list[Flow]) -> list[Flow] | None:
    """Only what lies behind the units changes, or is flattened with them: each unit then spans what lay behind it."""
    before, after = shape(node.all_input_nodes[0]), shape(node)
    if all(after[: flow.dim + 1] == before[: flow.dim + 1] for flow in flows):
        return flows
    if after == (before[0], prod(before[1:])) and all(flow.dim == 1 for flow in flows):
        behind = prod(before[2:])
        return [Flow(flow.draft, 1, flow.span * behind, flow.offset * behind) for flow in flows]
    return None


def _expands(_trail: Trail, node: fx.Node, flows: list[Flow]) -> list[Flow] | None:
    before, after = shape(node.all_input_nodes[0]), shape(node)
    return flows if len(before) == len(after) and _same_widths(before, after, flows) else None


def _adds(trail: Trail, node: fx.Node, flows: list[Flow]) -> list[Flow] | None:
    """A sum of two layers' outputs makes their units one; a plain number added would make pruned units live.

    Zero does not, with which the sum of a list of branches begins.
    """
    sources = node.all_input_nodes
    if len(sources) == 1 and any(isinstance(argument, int) and argument == 0 for argument in node.args):
        return flows
    if len(sources) != 2 or shape_of(sources[0]) != shape_of(sources[1]):
        return None
    return flows if trail.tie(flows, trail.of(sources[1])) else None


def _multiplies(trail: Trail, node: fx.Node, flows: list[Flow]) -> list[Flow] | None:
    """By a number, or by other units, as the gates of squeeze and excitation do: a unit and its gate become one."""
    one, other = (*node.args, None, None)[:2]
    is_product = operation(node, trail.modules) in ("mul", "imul")
    if isinstance(other, (int, float)) or (is_product and isinstance(one, (int, float))):
        return flows
    if not is_product or not isinstance(one, fx.Node) or not isinstance(other, fx.Node):
        return None
    before, gates = shape_of(one), shape_of(other)
    if before is None or gates is None or len(before) != len(gates) or not _same_widths(before, gates, flows):
        return None
    return flows if trail.tie(trail.of(one), trail.of(other)) else None


def _concatenates(trail: Trail, node: fx.Node, _flows: list[Flow]) -> list[Flow] | None:
    """Side by side along the units' dimension, each offset by what stands before it."""
    sources, dim = _argument(node, 0, "tensors"), _argument(node, 1, "dim", 0)
    if not isinstance(sources, (list, tuple)) or not isinstance(dim, int):
        return None
    dim %= len(shape(node))
    found, offset = [], 0
    for source in sources:
        if not isinstance(source, fx.Node) or any(flow.dim != dim for flow in trail.of(source)):
            return None
        for flow in trail.of(source):
            found.append(Flow(flow.draft, dim, flow.span, flow.offset + offset))
            _moves_raw(flow, source, found[-1], node)
        offset += shape(source)[dim]
    return found


def _moves_raw(before: Flow, source: fx.Node, after: Flow, node: fx.Node) -> None:
    """What the layer put out is found at `node` from here on: the same values, or the normalised ones."""
    old, new = before.slice_of(source.name, before.dim), after.slice_of(node.name, after.dim)
    before.group.raw = [new if raw == old else raw for raw in before.group.raw]


def _same_widths(before: Sequence[int], after: Sequence[int], flows: list[Flow]) -> bool:
    return all(before[flow.dim] == after[flow.dim] for flow in flows)


def _argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


Rule = Callable[[Trail, fx.Node, list[Flow]], list[Flow] | None]

RULES: dict[str, Rule] = {
    **dict.fromkeys(
        (
            *("relu", "relu6", "leakyrelu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish"),
            *("tanh", "softsign"),
        ),
        _activates,
    ),
    **dict.fromkeys(("sigmoid", "hardsigmoid", "softplus", "hardtanh"), _activates_from_zero),
    **dict.fromkeys(
        ("identity", "dropout", "dropout1d", "dropout2d", "dropout3d", "featuredropout", "contiguous", "clone"), _passes
    ),
    "detach": _passes,
    **dict.fromkeys(("batchnorm1d", "batchnorm2d", "batchnorm3d"), _normalises),
    **dict.fromkeys(
        [f"{kind}pool{n}d" for kind in ("max", "avg", "adaptivemax", "adaptiveavg") for n in (1, 2, 3)], _pools
    ),
    **dict.fromkeys(
        ("interpolate", "upsample", "upsamplenearest1d", "upsamplenearest2d", "upsamplebilinear2d"), _pools
    ),
    **dict.fromkeys(("pad", "constantpadnd"), _pads),
    **dict.fromkeys([f"{kind}pad{n}d" for kind in ("zero", "constant") for n in (1, 2, 3)], _pads),
    **dict.fromkeys(("flatten", "view", "reshape", "squeeze", "unsqueeze"), _reshapes),
    **dict.fromkeys(("expand", "expandas"), _expands),
    **dict.fromkeys(("add", "iadd"), _adds),
    **dict.fromkeys(("mul", "imul", "div", "truediv"), _multiplies),
    **dict.fromkeys(("cat", "concat", "concatenate"), _concatenates),
    "mean": _averages,
}

JOINS = frozenset(("add", "iadd", "mul", "imul", "cat", "concat", "concatenate", "expandas"))
"""Operations that may take units from more than one of their inputs."""

_TOGETHER = "whose statistics are of several units together: without some of them they would be others"
REASONS = {"layernorm": _TOGETHER, "groupnorm": _TOGETHER, "rmsnorm": _TOGETHER}
"""Why some operations have no rule, where that is more than not being among them."""
