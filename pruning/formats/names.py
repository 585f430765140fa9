"""The named architectures, by name alone. Torch-free: the API refuses an unknown name before it takes a file."""

from __future__ import annotations

ARCHITECTURE_NAMES = ("lenet_300_100", "lenet5", "conv2", "conv4", "conv6", "resnet20", "vgg16")
"""The keys of `pruning.formats.architectures.ARCHITECTURES`, in its order."""
