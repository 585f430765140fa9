"""Small studies of every kind of loop: seconds each, one of them longer than most gaps between faults."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

TRAINING = {"steps": 120, "evaluate_every_steps": 60, "preprocessing": {"scale": 0.0625}}

MODELS: dict[str, dict[str, str | int]] = {
    "dense": {"architecture": "lenet_300_100", "input_shape": "1,8,8", "num_classes": 10, "seed": 0},
    "convolutional": {"architecture": "conv2", "input_shape": "1,8,8", "num_classes": 10, "seed": 1},
}
"""Parameters of POST /v1/models."""


@dataclass(frozen=True)
class Study:
    model: str
    recipe: dict[str, Any]


RECIPES: dict[str, Study] = {
    "reset": Study("dense", {"strategy": "lottery_ticket_reset", "stop": {"rounds": 3}, "training": TRAINING}),
    "continue": Study("dense", {"strategy": "lottery_ticket_continue", "stop": {"rounds": 3}, "training": TRAINING}),
    "dropnet": Study(
        "convolutional",
        {
            "strategy": "dropnet",
            "stop": {"rounds": 3, "accuracy_floor": {"factor": 0.5}},
            "training": {"epochs": 3, "preprocessing": {"scale": 0.0625}},
        },
    ),
    "long": Study(
        "dense",
        {"strategy": "lottery_ticket_reset", "stop": {"rounds": 5}, "training": TRAINING | {"steps": 600}, "seed": 1},
    ),
}


def digits_npz(num_examples: int = 1000) -> bytes:
    """The digits of scikit-learn, uint8 0..16, as named splits; other numbers of examples are other bytes."""
    digits = load_digits()
    images, targets = digits.images.astype("uint8")[:, None], digits.target
    file = BytesIO()
    np.savez(
        file,
        **{
            "train.inputs": images[:num_examples],
            "train.targets": targets[:num_examples],
            "validation.inputs": images[1000:1400],
            "validation.targets": targets[1000:1400],
        },
    )
    return file.getvalue()
