# ruff: noqa: ARG001 (criteria share one signature)
"""Criteria: one pure function each, (model, masks, evidence) -> {name: scores}. Low scores are pruned.

The shape of the scores says the granularity. Scores under a parameter's name have that parameter's shape, one a weight,
and `pruning.units.unit_scores` makes unit scores of them; scores under a unit group's name are one a unit. Whoever must
touch weights, gradients or statistics does so on a copy: an exception leaves nothing behind.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pruning.activations import activation, apoz
from pruning.evidence import Evidence, Scores
from pruning.graph import LAYER_TYPES, canonical_names
from pruning.masks import Entrywise
from pruning.training import evaluating

Score = Callable[[nn.Module, Mapping[str, Tensor], Evidence], Scores]


def magnitude(model: nn.Module, masks: Mapping[str, Tensor], evidence: Evidence) -> Scores:
    """s(w) = |w|; s(unit) = its incoming weights' L2 norm.

    Han et al. 2015, section 3; Frankle & Carbin 2019, section 2. Of units: Li et al. 2017, with L2 for L1.
    These are the weights themselves, no copy of them: by |.| they are compared (`Criterion.by`).
    """
    parameters = dict(model.named_parameters())
    return {name: parameters[name].detach() for name in masks}


def random(model: nn.Module, masks: Mapping[str, Tensor], evidence: Evidence) -> Scores:
    """s ~ U[0, 1), for each weight or for each unit: the control that every other criterion has to beat."""
    shapes = {group.name: torch.Size([group.size]) for group in evidence.groups}
    if not shapes:
        shapes = {name: mask.shape for name, mask in masks.items()}
    return {name: torch.rand(shape, generator=evidence.generator) for name, shape in shapes.items()}


def taylor(model: nn.Module, masks: Mapping[str, Tensor], evidence: Evidence) -> Scores:
    """s(w) = mean over batches of (g w)^2, g = dL/dw: what the loss would change by, to first order, squared.

    Molchanov et al. 2019, equation 8; of a unit, the sum over its incoming weights. In evaluation mode. A batch is 256
    examples of a sample, the last one what is left: it counts as much, for what is squared belongs to a batch.
    """
    model = copy.deepcopy(model).eval()
    weights = _weights(model, masks)
    scores = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    num_batches = 0
    for inputs, targets in evidence.sample():
        gradients = _gradients(evidence.loss_fn(model(inputs), targets), weights.values())
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            scores[name] += (gradient * weight.detach()).square()
        num_batches += 1
    return {name: score / num_batches for name, score in scores.items()}


def snip(model: nn.Module, masks: Mapping[str, Tensor], evidence: Evidence) -> Scores:
    """s(w) = |g w|, g = dL/dw over a sample, at the first weights: connection sensitivity.

    Lee et al. 2019, equation 6, without its normalisation, which changes no order. In training mode: at the first
    weights batch-norm has no statistics yet.
    """
    model = copy.deepcopy(model).train()
    weights = _weights(model, masks)
    gradients = _mean_gradients(model, weights.values(), evidence)
    return {
        name: (gradient * weight.detach()).abs()
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
    }


def grasp(model: nn.Module, masks: Mapping[str, Tensor], evidence: Evidence) -> Scores:
    """s(w) = w (H g), g and H gradient and Hessian of L over a sample, at the first weights: gradient flow kept.

    Wang et al. 2020, equation 8, where S = -w (H g) is large for what is to go: here low scores go. H g is the gradient
    of g . stop(g). The authors' code divides the logits by a temperature of 200; here, as in the paper, there is none.
    """
    model = copy.deepcopy(model).train()
    weights = _weights(model, masks)
    drawn = evidence.generator.get_state()
    flow = _mean_gradients(model, weights.values(), evidence)
    evidence.generator.set_state(drawn)  # H g is of the same examples as g
    products, total = [torch.zeros_like(weight) for weight in weights.values()], 0
    # The fused kernels of attention have no second derivative.
    with sdpa_kernel(SDPBackend.MATH):
        for inputs, targets in evidence.sample():
            loss = evidence.loss_fn(model(inputs), targets)
            dot = torch.stack(
                [
                    (gradient * mean).sum()
                    for gradient, mean in zip(_gradients(loss, weights.values(), True), flow, strict=True)
                ]
            ).sum()
            count = evidence.count(targets)
            for product, part in zip(products, _gradients(dot, weights.values()), strict=True):
                product += count * part
            total += count
    return {
        name: product / max(1, total) * weight.detach()
        for (name, weight), product in zip(weights.items(), products, strict=True)
    }


def synflow(model: nn.Module, masks: Mapping[str, Tensor], evidence: Evidence) -> Scores:
    """s(w) = |w dR/dw|, R = sum of the outputs for an input of ones, every weight by its absolute value: no data.

    Tanaka et al. 2020, equation 7, in float64: a deep network's R leaves float32. To be pruned in many small steps
    (`iterations`), each on the masks of the last, so that no layer collapses.
    """
    try:
        scores = _flow(model, masks, evidence, torch.float64)
    except RuntimeError as error:
        if not any(word in str(error) for word in ("dtype", "type (", "scalar type")):
            raise
        scores = _flow(model, masks, evidence, torch.float32)  # an exported program may have float32 written into it
    # Masks compare scores as float32, which the scores of a deep network would leave, too: only their order counts.
    largest = max(float(score.max()) for score in scores.values()) or 1.0
    return {name: (score / largest).float() for name, score in scores.items()}


def _flow(model: nn.Module, masks: Mapping[str, Tensor], evidence: Evidence, dtype: torch.dtype) -> Scores:
    model = copy.deepcopy(model).eval().to(dtype)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.abs_()
    weights = _weights(model, masks)
    with torch.no_grad():
        for name, mask in masks.items():
            weights[name].masked_fill_(~mask.to(weights[name].device), 0.0)
    ones = torch.ones(1, *evidence.train.inputs.shape[1:], dtype=dtype, device=evidence.train.device)
    gradients = _gradients(model(ones).sum(), weights.values())
    return {
        name: (gradient * weight.detach()).abs()
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
    }


def wanda(model: nn.Module, masks: Mapping[str, Tensor], evidence: Evidence) -> Scores:
    """s(w_ij) = |w_ij| ||x_j||_2, x_j the layer's input j over a sample (all positions). Sun et al. 2024, equation 1.

    Made to compare within output rows (scope row). Of tied weights, x_j is what enters any of their layers.
    """
    squares: dict[nn.Module, Tensor] = {}

    def watch(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach().double()
        x = x.movedim(1, -1) if not isinstance(module, nn.Linear) else x
        total = x.flatten(0, -2).square().sum(0)
        squares[module] = squares[module] + total if module in squares else total

    first_name = canonical_names(model)
    layers: dict[str, list[nn.Module]] = {}
    for path, module in model.named_modules():
        # An embedding may share a layer's weight, and has tokens for inputs; masks of units are of biases as well.
        if isinstance(module, LAYER_TYPES) and first_name[f"{path}.weight"] in masks:
            layers.setdefault(first_name[f"{path}.weight"], []).append(module)
    handles = [module.register_forward_pre_hook(watch) for sharing in layers.values() for module in sharing]
    try:
        with evaluating(model), torch.no_grad():
            for inputs, _ in evidence.sample():
                model(inputs)
    finally:
        for handle in handles:
            handle.remove()

    scores = {}
    for name, sharing in layers.items():
        weight = model.get_parameter(name).detach()
        per_row = torch.zeros(len(weight), weight.shape[1], dtype=torch.float64, device=weight.device)
        for module in sharing:
            if module in squares:
                # Of a grouped convolution, the rows of group g see the g-th part of the channels.
                groups = getattr(module, "groups", 1)
                per_row += squares[module].view(groups, -1).repeat_interleave(len(weight) // groups, dim=0)
        norms = per_row.sqrt().to(weight.dtype)
        scores[name] = weight.abs() * norms.view(*norms.shape, *[1] * (weight.dim() - 2))
    return scores


def _weights(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    return {name: parameters[name].requires_grad_(True) for name in masks}


def _gradients(value: Tensor, weights: Iterable[Tensor], create_graph: bool = False) -> list[Tensor]:
    """Zeros where the value does not depend on a weight, as that of a layer whose output is not used."""
    weights = list(weights)
    if not value.requires_grad:
        return [torch.zeros_like(weight) for weight in weights]
    return list(torch.autograd.grad(value, weights, create_graph=create_graph, materialize_grads=True))


def _mean_gradients(model: nn.Module, weights: Iterable[Tensor], evidence: Evidence) -> list[Tensor]:
    """Of the mean loss over the sample: batches weigh by what their own means are over, for the last one is smaller."""
    weights = list(weights)
    sums, total = [torch.zeros_like(weight) for weight in weights], 0
    for inputs, targets in evidence.sample():
        count = evidence.count(targets)
        gradients = _gradients(evidence.loss_fn(model(inputs), targets), weights)
        for running, gradient in zip(sums, gradients, strict=True):
            running += count * gradient
        total += count
    return [running / max(1, total) for running in sums]


@dataclass(frozen=True)
class Criterion:
    """
    Attributes:
        at_start: scores the first weights under the round's masks, before any training, instead of the trained ones.
        iterations: small steps that one round's pruning takes, each scored anew.
        by: what the scores are compared by; low ones are pruned.
    """

    score: Score
    at_start: bool = False
    iterations: int = 1
    by: Entrywise = torch.clone


CRITERIA: dict[str, Criterion] = {
    "magnitude": Criterion(magnitude, by=torch.abs),
    "random": Criterion(random),
    "activation": Criterion(activation),
    "apoz": Criterion(apoz),
    "taylor": Criterion(taylor),
    "snip": Criterion(snip, at_start=True),
    "grasp": Criterion(grasp, at_start=True),
    "synflow": Criterion(synflow, at_start=True, iterations=100),
    "wanda": Criterion(wanda),
}
