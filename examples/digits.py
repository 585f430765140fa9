"""The handwritten digits that come with scikit-learn: 1797 images of 8 x 8 in 17 grey levels, no download."""

from __future__ import annotations

import numpy
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SCALE = 1 / 16
"""Grey levels are 0..16. The images stay bytes; whoever reads them multiplies by this."""

Split = tuple[NDArray[numpy.uint8], NDArray[numpy.int64]]


def load_splits() -> dict[str, Split]:
    """65% train, 15% validation, 20% test; every digit has its share of each, and a second call gives the same."""
    digits = load_digits()
    images = digits.images.astype(numpy.uint8)[:, None]  # one channel
    labels = digits.target.astype(numpy.int64)
    images, test_images, labels, test_labels = train_test_split(
        images, labels, test_size=360, stratify=labels, random_state=0
    )
    images, validation_images, labels, validation_labels = train_test_split(
        images, labels, test_size=270, stratify=labels, random_state=0
    )
    return {
        "train": (images, labels),
        "validation": (validation_images, validation_labels),
        "test": (test_images, test_labels),
    }
