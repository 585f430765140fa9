"""Global magnitude selection, exact k: ours against what is usually written.

`python -m benchmarks.selection WAY NUM_WEIGHTS` prints one way's CPU seconds and extra memory (x the weights' bytes).
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from benchmarks.measure import Target, cpu_seconds, output_of, peak_bytes, ratio, reset_peak
from pruning.criteria import CRITERIA
from pruning.data import Split
from pruning.evidence import Evidence
from pruning.masks import prune_smallest, prune_smallest_above_floors
from pruning.training_options import Preprocessing

FRACTION = 0.2
NUM_LAYERS = 8

Network = nn.Sequential
Masks = dict[str, Tensor]


def ours(network: Network, kept: Masks, count: int) -> None:
    """As a round does: criterion, selection, new masks, no layer empty."""
    generator = torch.Generator().manual_seed(0)
    nothing = Split(torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64))
    criterion = CRITERIA["magnitude"]
    scores = criterion.score(network, kept, Evidence(nothing, Preprocessing(), (), generator))
    floors = dict.fromkeys(kept, 1)
    prune_smallest_above_floors(scores, kept, count, floors, generator, criterion.by)


def ours_given_scores(scores: Masks, kept: Masks, count: int) -> None:
    prune_smallest(scores, kept, count, torch.Generator().manual_seed(0))


def global_unstructured(network: Network, kept: Masks, count: int) -> None:  # noqa: ARG001
    prune.global_unstructured(
        [(layer, "weight") for layer in network], pruning_method=prune.L1Unstructured, amount=count
    )


def cat_kthvalue(network: Network, kept: Masks, count: int) -> Masks:
    magnitudes = torch.cat([parameter.detach().abs().flatten() for parameter in network.parameters()])
    threshold = magnitudes.kthvalue(count).values  # ties go with it, all of them
    del magnitudes
    return {name: (p.detach().abs() > threshold) & kept[name] for name, p in network.named_parameters()}


def cat_topk(network: Network, kept: Masks, count: int) -> Masks:  # noqa: ARG001
    magnitudes = torch.cat([parameter.detach().abs().flatten() for parameter in network.parameters()])
    pruned = magnitudes.topk(count, largest=False, sorted=False).indices
    mask = torch.ones(len(magnitudes), dtype=torch.bool)
    mask[pruned] = False
    parts = mask.split([parameter.numel() for parameter in network.parameters()])
    return {name: part.view_as(p) for part, (name, p) in zip(parts, network.named_parameters(), strict=True)}


WAYS: dict[str, Callable[[Network, Masks, int], object]] = {
    "ours": ours,
    "ours, given scores": lambda network, kept, count: ours_given_scores(
        {name: parameter.detach() for name, parameter in network.named_parameters()}, kept, count
    ),
    "global_unstructured": global_unstructured,
    "cat + kthvalue": cat_kthvalue,
    "cat + topk": cat_topk,
}
TARGETS = {"faster": Target(least=10), "memory": Target(most=0.75)}


def measure(way: str, num_weights: int) -> tuple[float, float]:
    """(CPU seconds, extra bytes over the weights' bytes), in this process."""
    width = 1000
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Linear(width, num_weights // NUM_LAYERS // width, bias=False) for _ in range(NUM_LAYERS))
    )
    if way == "ours, given scores":
        for parameter in network.parameters():
            parameter.data.abs_()  # the scores are there before, in the weights' place
    kept = {name: torch.ones(parameter.shape, dtype=torch.bool) for name, parameter in network.named_parameters()}
    num_bytes = sum(parameter.nbytes for parameter in network.parameters())
    # Code and buffers that the first call of anything brings in are no part of the measure.
    small = nn.Sequential(*(nn.Linear(10, 10, bias=False) for _ in range(NUM_LAYERS)))
    WAYS[way](small, {n: torch.ones(p.shape, dtype=torch.bool) for n, p in small.named_parameters()}, 100)
    before, started = reset_peak(), cpu_seconds()
    result = WAYS[way](network, kept, int(FRACTION * num_weights))
    seconds = cpu_seconds() - started
    del result
    return seconds, (peak_bytes() - before) / num_bytes


def report(num_weights: int, turns: int) -> list[str]:
    """Each measure is a child of its own, since memory that one way gave back would hide what the next one takes."""
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(turns):
        for way in WAYS:
            seconds, extra = map(float, output_of("benchmarks.selection", way, num_weights).split())
            found[way].append((seconds, extra))
    lines = [f"Global magnitude selection, {num_weights:.0e} weights, 20% of them, {turns} turns"]
    seconds_of = {way: [seconds for seconds, _ in pairs] for way, pairs in found.items()}
    for way, pairs in found.items():
        cpu, memory = (statistics.median(column) for column in zip(*pairs, strict=True))
        slower = ratio(seconds_of, way, "ours")
        lines.append(f"  {way:<24} {cpu:8.3f} s   {memory:5.2f} x the weights   {slower:5.1f} x ours")
    for way in ("ours, given scores", "ours"):
        faster = ratio(seconds_of, "global_unstructured", way)
        memory = statistics.median(memory for _, memory in found[way])
        lines.append(f"    {way}: {faster:.1f} x cheaper than global_unstructured: {TARGETS['faster'].verdict(faster)}")
        lines.append(f"    {way}: {memory:.2f} x the weights of extra memory: {TARGETS['memory'].verdict(memory)}")
    return lines


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(*measure(sys.argv[1], int(sys.argv[2])))
