"""How much each layer matters: what the network loses where that one alone is pruned, and not trained again.

Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, section 3.2 and figure 2(b).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from pruning.losses import Metrics
from pruning.masks import apply_masks

if TYPE_CHECKING:
    from pruning.pruner import Pruner


def scan(
    model: nn.Module, pruner: Pruner, sparsities: Sequence[float], measure: Callable[[nn.Module], Metrics]
) -> list[dict[str, Any]]:
    """[{"layer", "size" (weights, or units), "points": [{"sparsity", "metrics"}]}], in the network's order, JSON-able.

    Each point's `sparsity` is the fraction of that layer that is removed: what was asked for, to within one weight or
    unit, less what always stays. The model is left as it is.

    Args:
        measure: a network -> its metrics.
    """
    found: dict[str, dict[str, Any]] = {}
    for layer, size, sparsity, masks in pruner.each_alone(sparsities):
        alone = copy.deepcopy(model)
        apply_masks(dict(alone.named_parameters()), masks)
        row = found.setdefault(layer, {"layer": layer, "size": size, "points": []})
        row["points"].append({"sparsity": sparsity, "metrics": measure(alone)})
    return list(found.values())
