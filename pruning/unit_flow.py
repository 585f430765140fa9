"""The walk that finds the unit groups; what each operation does to units is in `unit_rules`."""

from __future__ import annotations

from torch import Tensor, fx, nn

from pruning.graph import LAYER_TYPES, PrunableModule, canonical_names, operation, shape_of, trace_with_shapes
from pruning.unit_drafts import Draft, Flow, Trail
from pruning.unit_rules import JOINS, REASONS, RULES, shape
from pruning.units import Slice, UnitGroup


def find_units(model: nn.Module, example: Tensor) -> tuple[list[UnitGroup], dict[str, str]]:
    """(the groups of units that can be pruned, in graph order; for every other layer, why not).

    Args:
        example: (n, ...) inputs to run the model on once, n at least 2 if the model normalises by batch.

    Raises:
        UntraceableError: the model cannot be followed as a graph.
    """
    graph_module = trace_with_shapes(model, example)
    modules, names = dict(graph_module.named_modules(remove_duplicate=False)), canonical_names(model)
    nodes = list(graph_module.graph.nodes)
    trail = Trail(modules, names, _count_uses(nodes, modules, names))
    for node in nodes:
        _visit(trail, node)
    groups: list[UnitGroup] = []
    reasons: dict[str, str | None] = {**trail.guests}
    for draft in trail.drafts:
        if draft.reason is None and draft.into is None:
            groups.append(draft.finished())
        reasons |= dict.fromkeys(draft.layers, draft.root().reason)
    return groups, {layer: reason for layer, reason in reasons.items() if reason is not None}


def _visit(trail: Trail, node: fx.Node) -> None:
    if node.op in ("placeholder", "get_attr"):
        return
    module = trail.modules.get(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, LAYER_TYPES):
        flows = _depthwise(trail, node) if _is_depthwise(module) else None
        trail.flows[node] = flows or [_layer(trail, node, module)]
        return
    sources = node.all_input_nodes
    carried = [flow for source in sources for flow in trail.of(source)]
    if not carried:
        return
    if node.op == "output":
        _pin(carried, "its units are the model's outputs")
        return
    if "tensor_meta" not in node.meta:
        return  # a size or another plain value, which says nothing of units
    word = operation(node, trail.modules)
    first, flows = trail.of(sources[0]), None
    if word in RULES and shape_of(node) is not None and (word in JOINS or first == carried):
        flows = RULES[word](trail, node, first)
    if flows is None:
        because = f", {REASONS[word]}" if word in REASONS else ""
        _pin(carried, f"its units cannot be followed through {node.name} ({word}){because}")
    else:
        trail.flows[node] = flows


def _layer(trail: Trail, node: fx.Node, module: PrunableModule) -> Flow:
    """Consumes the units of its input and starts units of its own."""
    path, rank = str(node.target), len(shape(node))
    is_linear = isinstance(module, nn.Linear)
    dim = rank - 1 if is_linear else 1
    blocks = 1 if isinstance(module, nn.Linear) else module.groups
    weight = trail.names[f"{path}.weight"]
    again = next((known for known in trail.drafts if path in known.layers), None)
    draft = again or Draft(module.weight.shape[0], [path])
    if again is None:
        trail.drafts.append(draft)
        draft.slices = [Slice(weight, 0, blocks=blocks), *_own(trail, path)[1:]]
        draft.incoming, draft.raw = draft.slices[:1], [Slice(node.name, dim)]

    reason = None
    if trail.uses[weight] > 1:
        reason = f"the weights of {path} are used more than once"
    elif _is_depthwise(module):
        reason = f"{path} is a depthwise convolution, whose filters go with its inputs, and not all of those are units"
    source = node.all_input_nodes[0]
    for consumed in trail.of(source):
        if reason is not None:
            _pin([consumed], f"it feeds {path}: {reason}")
        elif consumed.dim != (len(shape(source)) - 1 if is_linear else 1):
            _pin([consumed], f"its units lie across the inputs of {path}")
        else:
            consumed.group.slices.append(consumed.slice_of(weight, 1, blocks))
            consumed.group.outgoing.append(consumed.slice_of(weight, 1, blocks))
    own = _own(trail, path)
    if reason is None and any(trail.uses[part.name] > 1 for part in own):
        reason = f"the bias of {path} is used more than once"  # what is masked of it would be missing elsewhere
    draft.reason = draft.reason or reason
    return Flow(draft, dim)


def _is_depthwise(module: PrunableModule) -> bool:
    return not isinstance(module, nn.Linear) and 1 < module.groups == module.in_channels


def _depthwise(trail: Trail, node: fx.Node) -> list[Flow] | None:
    """Filters for each unit, which belong to the unit; None where its inputs are not all units that are known."""
    path, source = str(node.target), node.all_input_nodes[0]
    before = trail.of(source)
    num_inputs = shape(source)[1]
    is_known = sum(flow.group.size * flow.span for flow in before) == num_inputs and all(f.dim == 1 for f in before)
    if not is_known or any(trail.uses[part.name] > 1 for part in _own(trail, path)):
        return None
    multiplier = shape(node)[1] // num_inputs  # filters of an input, which stand side by side
    flows = [Flow(flow.draft, 1, flow.span * multiplier, flow.offset * multiplier) for flow in before]
    for flow in flows:
        flow.group.slices += [flow.slice_of(part.name, 0) for part in _own(trail, path)]
    if len(flows) == 1 and flows[0].span == 1:
        flows[0].group.layers.append(path)
    else:
        trail.guests[path] = f"its filters go with the units of {', '.join(flow.group.layers[0] for flow in flows)}"
    return flows


def _own(trail: Trail, path: str) -> list[Slice]:
    """The layer's weight, dimension 0, and its bias, if it has one."""
    return [Slice(trail.names[name], 0) for name in (f"{path}.weight", f"{path}.bias") if name in trail.names]


def _pin(flows: list[Flow], reason: str) -> None:
    for flow in flows:
        flow.group.reason = flow.group.reason or reason


def _count_uses(nodes: list[fx.Node], modules: dict[str, nn.Module], names: dict[str, str]) -> dict[str, int]:
    """How often the graph uses each parameter, under its first name."""
    uses = dict.fromkeys(names.values(), 0)
    for node in nodes:
        if node.op == "call_module":
            used = [f"{node.target}.{name}" for name, _ in modules[str(node.target)].named_parameters()]
        else:
            used = [str(node.target)] if node.op == "get_attr" and str(node.target) in names else []
        for name in used:
            uses[names[name]] += 1
    return uses
