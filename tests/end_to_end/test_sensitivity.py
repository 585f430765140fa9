"""A scan through the whole service: nothing is trained, each layer is pruned alone."""

from __future__ import annotations

import numpy as np
from espalier import Client
from sklearn.datasets import load_digits

RECIPE = {
    "strategy": "lottery_ticket_reset",
    "stop": {"rounds": 0},
    "training": {"steps": 0, "preprocessing": {"scale": 1 / 16}},
    "sensitivity": {"sparsities": [0.5, 0.9]},
}


def test_a_scan_of_a_network_as_it_is(client: Client) -> None:
    bunch = load_digits()
    arrays = {"train": (bunch.images.astype(np.uint8)[:, None], bunch.target)}
    dataset = client.upload_dataset(arrays, name="digits of the scan")
    model = client.upload_model(
        b"", format="architecture", architecture="lenet_300_100", input_shape=(1, 8, 8), num_classes=10
    )
    job = client.wait(client.create_job(model=model, dataset=dataset, recipe=RECIPE)["id"])
    assert (job["status"], job["selected_round"], job["progress"]["rounds"]) == ("succeeded", 0, 0)
    scan = client.sensitivity(job["id"])
    assert [(row["layer"], row["size"]) for row in scan["data"]] == [("fc1", 19200), ("fc2", 30000), ("fc3", 1000)]
    for row in scan["data"]:
        assert [point["sparsity"] for point in row["points"]] == [0.5, 0.9]
        assert all(0 <= point["metrics"]["accuracy"] <= 1 for point in row["points"])
    (dense,) = client.rounds(job["id"])
    assert scan["dense"] == dense["metrics"]["validation"]
    assert (dense["steps"], dense["early_stopping"]) == (0, None)
