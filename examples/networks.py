"""Two networks as a user would write them. The service has never seen these classes: it gets them exported."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class LeNet(nn.Module):
    """LeNet-300-100, for images of 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.relu(self.fc1(images.flatten(1)))
        hidden = functional.relu(self.fc2(hidden))
        logits: Tensor = self.fc3(hidden)
        return logits


class Sapling(nn.Module):
    """A small residual network with batch-norm. Stem and branch are added, so their filters are pruned as one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.branch = nn.Sequential(
            *(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)),
        )
        self.crown = nn.Sequential(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.stem(images)
        hidden = functional.max_pool2d(functional.relu(hidden + self.branch(hidden)), 2)
        logits: Tensor = self.head(self.crown(hidden).mean(dim=(2, 3)))
        return logits


def initialised(network: nn.Module, seed: int) -> nn.Module:
    """Glorot's normal weights and zero biases, as in the papers; normalisations begin as torch makes them."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() > 1:
            nn.init.xavier_normal_(parameter, generator=generator)
    return network
