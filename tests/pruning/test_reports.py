from __future__ import annotations

import copy
import json

import torch
from torch import nn

from pruning.formats.architectures import build
from pruning.iterative import prune_iteratively
from pruning.reports import latency_ms, layer_table, macs, parameter_totals, round_report


def test_layer_table_counts_kept_nonzero_weights_of_masked_layers_once(counting_toy) -> None:
    mask = torch.ones(4, 3, dtype=torch.bool)
    mask[1] = False
    table = layer_table(counting_toy, {"fc1.weight": mask})
    # Weight 0 of 0..11 is kept and happens to be zero; fc2 has no mask: ignored.
    assert table == [{"name": "fc1", "num_weights": 12, "num_nonzero": 8, "density": 0.75}]
    assert parameter_totals(counting_toy) == {"num_parameters_total": 26, "num_nonzero_total": 22}
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    everything = torch.ones(3, 3, dtype=torch.bool)
    assert [row["name"] for row in layer_table(tied, {"0.weight": everything, "1.weight": everything})] == ["0"]


def test_multiply_adds_by_hand(toy_conv) -> None:
    dense = 4 * 9 * 16 + 16 * 6 + 6 * 3
    assert macs(toy_conv, (1, 4, 4), {}) == {"dense": dense, "effective": dense}
    mask = torch.zeros(4, 1, 3, 3, dtype=torch.bool)
    mask[0] = True
    assert macs(toy_conv, (1, 4, 4), {"conv.weight": mask}) == {
        "dense": dense,
        "effective": 9 * 16 + 16 * 6 + 6 * 3,
    }
    assert not toy_conv.conv._forward_hooks


def test_latency_states_its_conditions(counting_toy) -> None:
    latency = latency_ms(counting_toy, (3,), num_forwards=5)
    assert 0 < latency["p50"] <= latency["p95"]
    assert latency["conditions"] == {"batch": 1, "threads": 1, "device": "cpu", "num_forwards": 5}


def test_a_rounds_report_has_the_promised_shape_and_leaves_the_model(make_dataset, make_recipe) -> None:
    model = build("lenet5", (1, 12, 12), 3)
    before = copy.deepcopy(model.state_dict())
    recipe = make_recipe(criterion={"name": "activation"}, granularity="unit", stop={"rounds": 1})
    *_, last = prune_iteratively(model, make_dataset((1, 12, 12), 3), recipe)
    report = json.loads(json.dumps(round_report(last, model)))
    assert report["number"] == 1
    assert report["sparsity"] == {"target": 0.5, "actual": last.sparsity_actual}
    assert report["num_parameters"] == sum(row["num_weights"] for row in report["layers"])
    assert report["num_nonzero"] == sum(
        int(last.state[f"{row['name']}.weight"].count_nonzero()) for row in report["layers"]
    )
    assert [row["name"] for row in report["layers"]] == ["conv1", "conv2", "fc1", "fc2", "fc3"]
    assert report["num_nonzero"] < report["num_parameters"] < report["num_parameters_total"]
    assert (report["num_units"], report["num_units_kept"]) == (226, 113)
    assert set(report["metrics"]) == {"train", "validation", "test"}
    assert set(report["seconds"]) == {"prune", "train", "evaluate"}
    assert report["seed"] == recipe.seed
    assert report["invariants"] == [
        *("exactly k pruned", "masks only shrink", "no layer is empty", "the network is connected"),
        "pruned weights are zero after training",
    ]
    kept = {row["name"]: row["density"] for row in report["layers"]}
    assert kept == {name: float(last.masks[f"{name}.weight"].float().mean()) for name in kept}
    assert min(kept.values()) < 1
    masked = sum(int((~mask).sum()) for mask in last.masks.values())
    total = report["num_parameters_total"]
    assert report["compression_ratio"] == total / (total - masked) > 1.2
    assert report["macs"]["effective"] < report["macs"]["dense"]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_report_lists_no_invariant_that_was_not_checked(make_dataset, make_recipe) -> None:
    """The dense network and the final entry prune nothing, so nothing of pruning was checked in them."""
    model = build("lenet5", (1, 12, 12), 3)
    recipe = make_recipe(stop={"rounds": 1}, **{"finally": {"weights": "reset", "train": True}})
    rounds = list(prune_iteratively(model, make_dataset((1, 12, 12), 3), recipe))
    assert [round_.number for round_ in rounds] == [0, 1, None]
    checked = [round_report(round_, model)["invariants"] for round_ in rounds]
    assert checked[0] == checked[2] == ["pruned weights are zero after training"]
    assert len(checked[1]) == 5
