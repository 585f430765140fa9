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
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pruning.activations import activation, apoz
from pruning.evidence import Evidence, Scores
from pruning.training import evaluating

Score = Callable[[nn.Module, Mapping[str, Tensor], Evidence], Scores]


def magnitude(model: nn.Module, masks: Mapping[str, Tensor], evidence: Evidence) -> Scores:
    """s(w) = |w|; s(unit) = its incoming weights' L2 norm.

    Han et al. 2015, section 3; Frankle & Carbin 2019, section 2. Of units: Li et al. 2017, with L2 for L1.
    """
    parameters = dict(model.named_parameters())
    return {name: parameters[name].detach().abs() for name in masks}


def random(model: nn.Module, masks: Mapping[str, Tensor], evidence: Evidence) -> Scores:
    """s ~ U[0, 1), for each weight or for each unit: the control that every other criterion has to beat."""
    shapes = {group.name: torch.Size([group.size]) for group in evidence.groups}
    if not shapes:
        shapes = {name: mask.shape for name, mask in masks.items()}
    return {name: torch.rand(shape, generator=evidence.generator) for name, shape in shapes.items()}


def taylor(model: nn.Module, masks: Mapping[str, Tensor], evidence: Evidence) -> Scores:
    """s(w) = mean over batches of (g w)^2, g = dL/dw: what the loss would change by, to first order, squared.

    Molchanov et al. 2019, equation 8; of a unit, the sum over its incoming weights. In evaluation mode.
    """
    model = copy.deepcopy(model).eval()
    weights = _weights(model, masks)
    scores = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    num_batches = 0
    for inputs, targets in evidence.sample():
        gradients = torch.autograd.grad(evidence.loss_fn(model(inputs), targets), list(weights.values()))
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
    of g . stop(g).
    """
    model = copy.deepcopy(model).train()
    weights = _weights(model, masks)
    flow = _mean_gradients(model, weights.values(), evidence)
    products = [torch.zeros_like(weight) for weight in weights.values()]
    num_batches = 0
    # The fused kernels of attention have no second derivative.
    with sdpa_kernel(SDPBackend.MATH):
        for inputs, targets in evidence.sample():
            loss = evidence.loss_fn(model(inputs), targets)
            gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            dot = sum((g * f).sum() for g, f in zip(gradients, flow, strict=True))
            assert isinstance(dot, Tensor)
            for product, part in zip(products, torch.autograd.grad(dot, list(weights.values())), strict=True):
                product += part
            num_batches += 1
    return {
        name: product / num_batches * weight.detach()
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
    gradients = torch.autograd.grad(model(ones).sum(), list(weights.values()))
    return {
        name: (gradient * weight.detach()).abs()
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
    }


def wanda(model: nn.Module, masks: Mapping[str, Tensor], evidence: Evidence) -> Scores:
    """s(w_ij) = |w_ij| ||x_j||_2, x_j the layer's input j over a sample (all positions). Sun et al. 2024, equation 1.

    Made to compare within output rows (scope row).
    """
    squares: dict[str, Tensor] = {}

    def watch(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach().double()
        x = x.movedim(1, -1) if not isinstance(module, nn.Linear) else x
        total = x.flatten(0, -2).square().sum(0)
        squares[name] = squares[name] + total if name in squares else total

    modules = {name: model.get_submodule(name.rpartition(".")[0]) for name in masks}
    handles = [module.register_forward_pre_hook(partial(watch, name)) for name, module in modules.items()]
    try:
        with evaluating(model), torch.no_grad():
            for inputs, _ in evidence.sample():
                model(inputs)
    finally:
        for handle in handles:
            handle.remove()

    scores = {}
    for name, module in modules.items():
        weight = module.get_parameter("weight").detach()
        norms = squares[name].sqrt().to(weight.dtype)
        # Of a grouped convolution, the rows of group g see the g-th part of the channels.
        groups = getattr(module, "groups", 1)
        per_row = norms.view(groups, -1).repeat_interleave(len(weight) // groups, dim=0)
        scores[name] = weight.abs() * per_row.view(*per_row.shape, *[1] * (weight.dim() - 2))
    return scores


def _weights(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    return {name: parameters[name].requires_grad_(True) for name in masks}


def _mean_gradients(model: nn.Module, weights: Iterable[Tensor], evidence: Evidence) -> list[Tensor]:
    weights = list(weights)
    sums, num_batches = [torch.zeros_like(weight) for weight in weights], 0
    for inputs, targets in evidence.sample():
        gradients = torch.autograd.grad(evidence.loss_fn(model(inputs), targets), weights)
        for total, gradient in zip(sums, gradients, strict=True):
            total += gradient
        num_batches += 1
    return [total / num_batches for total in sums]


@dataclass(frozen=True)
class Criterion:
    """
    Attributes:
        at_start: scores the first weights under the round's masks, before any training, instead of the trained ones.
        iterations: small steps that one round's pruning takes, each scored anew.
    """

    score: Score
    at_start: bool = False
    iterations: int = 1


CRITERIA: dict[str, Criterion] = {
    "magnitude": Criterion(magnitude),
    "random": Criterion(random),
    "activation": Criterion(activation),
    "apoz": Criterion(apoz),
    "taylor": Criterion(taylor),
    "snip": Criterion(snip, at_start=True),
    "grasp": Criterion(grasp, at_start=True),
    "synflow": Criterion(synflow, at_start=True, iterations=100),
    "wanda": Criterion(wanda),
}
