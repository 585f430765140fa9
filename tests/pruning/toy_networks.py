"""Toys for what units go through: concatenation, depthwise convolution, gates, padding, literal sizes."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, max_pool2d, pad, relu


class Inverted(nn.Module):
    """Expansion, depthwise convolution and projection, with a sum, as in MobileNetV2."""

    shape = (2, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.expand, self.bn1 = nn.Conv2d(6, 10, 1, bias=False), nn.BatchNorm2d(10)
        self.depthwise, self.bn2 = nn.Conv2d(10, 10, 3, padding=1, groups=10), nn.BatchNorm2d(10)
        self.project, self.bn3 = nn.Conv2d(10, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        x = torch.nn.functional.relu6(self.stem(x))
        y = torch.nn.functional.hardswish(self.bn1(self.expand(x)))
        x = x + self.bn3(self.project(torch.nn.functional.silu(self.bn2(self.depthwise(y)))))
        return self.fc(x.mean([-2, -1]))


class Dense(nn.Module):
    """Each layer sees the input and all layers before, as in DenseNet; one tensor stands twice in a concatenation."""

    shape = (2, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn_a = nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(7)
        self.b, self.bn_b = nn.Conv2d(7, 4, 3, padding=1), nn.BatchNorm2d(11)
        self.c = nn.Conv2d(11, 6, 1)
        self.fc = nn.Linear((6 + 6) * 9, 4)

    def forward(self, x):
        x = torch.cat([x, self.a(x)], 1)
        x = torch.cat((x, self.b(relu(self.bn_a(x)))), dim=1)
        x = self.c(relu(self.bn_b(x)))
        return self.fc(max_pool2d(torch.cat([x, x], 1), 2).flatten(1))


class Fire(nn.Module):
    """Two branches side by side through a depthwise convolution, and a sum of concatenations."""

    shape = (2, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 5, 3, padding=1)
        self.depthwise, self.bn = nn.Conv2d(9, 9, 3, groups=9), nn.BatchNorm2d(9)
        self.c, self.d = nn.Conv2d(9, 4, 1), nn.Conv2d(9, 5, 1)
        self.fc1, self.fc2 = nn.Linear(9 * 9, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = torch.cat([relu(self.a(x)), relu(self.b(x))], 1)
        y = relu(self.bn(self.depthwise(pad(x, (1, 1, 1, 1)))))
        x = x + torch.cat([self.c(y), self.d(y)], 1)
        x = interpolate(max_pool2d(x, 2), scale_factor=2.0, mode="nearest")
        return self.fc2(torch.sigmoid(self.fc1(max_pool2d(x, 2).flatten(1))))


class Squeeze(nn.Module):
    """Squeeze and excitation, dropout, and sizes written as numbers, which only an exported program can be rid of."""

    shape = (2, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.fc1, self.fc2 = nn.Linear(8, 4), nn.Linear(4, 8)
        self.fc3, self.dropout, self.fc4 = nn.Linear(8 * 9, 6), nn.Dropout(0.1), nn.Linear(6, 3)

    def forward(self, x):
        x = relu(self.bn(self.stem(x)))
        gate = adaptive_avg_pool2d(x, 1).view(x.size(0), 8)
        gate = torch.sigmoid(self.fc2(relu(self.fc1(gate)))).view(-1, 8, 1, 1)
        x = max_pool2d(x * gate.expand(-1, 8, 6, 6), 2)
        return self.fc4(self.dropout(relu(self.fc3(x.reshape(-1, 72))) * 2))


class Normalised(nn.Module):
    """Normalisations over several units, which removing one of them would change."""

    shape = (2, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.group_norm, self.b = nn.Conv2d(2, 4, 1), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 1)
        self.fc1, self.layer_norm, self.fc2 = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x):
        x = relu(self.b(self.group_norm(self.a(x)))).mean((2, 3))
        return self.fc2(self.layer_norm(self.fc1(x)))


class Multiplied(nn.Module):
    """Depthwise convolutions of several filters an input: after one layer, one another, and a concatenation."""

    shape = (2, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 5, 1), nn.Conv2d(2, 3, 1)
        self.twice, self.bn = nn.Conv2d(5, 10, 3, padding=1, groups=5), nn.BatchNorm2d(10)
        self.again = nn.Conv2d(10, 20, 1, groups=10)
        self.triple = nn.Conv2d(23, 69, 3, groups=23, bias=False)
        self.c, self.fc = nn.Conv2d(69, 4, 1), nn.Linear(4 * 16, 3)

    def forward(self, x):
        y = self.again(relu(self.bn(self.twice(relu(self.a(x))))))
        return self.fc(relu(self.c(relu(self.triple(torch.cat([self.b(x), y], 1))))).flatten(1))


class Cardinal(nn.Module):
    """A bottleneck around a grouped convolution, with a sum, as in ResNeXt."""

    shape = (2, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.reduce, self.bn1 = nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12)
        self.grouped, self.bn2 = nn.Conv2d(12, 18, 3, padding=1, groups=3, bias=False), nn.BatchNorm2d(18)
        self.expand, self.bn3 = nn.Conv2d(18, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = relu(self.stem(x))
        y = relu(self.bn2(self.grouped(relu(self.bn1(self.reduce(x))))))
        return self.fc(relu(x + self.bn3(self.expand(y))).mean((2, 3)))


class Bundled(nn.Module):
    """Grouped convolutions fed by inputs, by a concatenation, by units of two channels, and by each other; the sum of
    two with different groups; one without bias or norm.
    """

    shape = (4, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.plain = nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.Conv2d(4, 3, 1)
        self.twice = nn.Conv2d(3, 6, 1, groups=3)  # the two channels of its last input lie in two groups of `joined`
        self.joined, self.bn = nn.Conv2d(15, 12, 1, groups=3), nn.BatchNorm2d(12)
        self.by_three = nn.Conv2d(12, 24, 3, groups=3, bias=False)
        self.by_four = nn.Conv2d(12, 24, 3, groups=4)
        self.last = nn.Conv2d(24, 10, 1, groups=2, bias=False)
        self.fc = nn.Linear(10 * 4, 3)

    def forward(self, x):
        x = torch.cat([self.twice(relu(self.plain(x))), relu(self.first(x)), x[:, :3]], 1)
        x = relu(self.bn(self.joined(x)))
        x = relu(self.by_three(x) + self.by_four(x))
        return self.fc(relu(max_pool2d(self.last(x), 2)).flatten(1))
