"""Named architectures: what a state dict of plain parameter names can be loaded into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, max_pool2d, relu

from pruning.formats.errors import FormatError
from pruning.randomness import global_stream

Shape = tuple[int, ...]


class Network(nn.Module):
    """A model that knows the shape of one example."""

    input_shape: Shape


class LeNet300100(Network):
    """Fully connected 300-100 on flattened inputs (LeCun et al. 1998; Frankle & Carbin 2019, figure 2)."""

    def __init__(self, input_shape: Shape, num_classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(prod(input_shape), 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        x = relu(self.fc1(x))
        x = relu(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits


class LeNet5(Network):
    """Two 5x5 convolutions, each with ReLU and max-pooling, then 120-84 (after LeCun et al. 1998)."""

    def __init__(self, input_shape: Shape, num_classes: int) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2), 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = max_pool2d(relu(self.conv1(x)), 2)
        x = max_pool2d(relu(self.conv2(x)), 2)
        x = x.flatten(1)
        x = relu(self.fc1(x))
        x = relu(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits


class Conv(Network):
    """Conv-2, -4, -6: pairs of 3x3 convolutions, a max-pool after each pair, then 256-256 (Frankle & Carbin 2019)."""

    def __init__(self, input_shape: Shape, num_classes: int, num_pairs: int) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.num_pairs = num_pairs
        for pair, filters in enumerate((64, 128, 256)[:num_pairs]):
            self.add_module(f"conv{2 * pair + 1}", nn.Conv2d(channels, filters, 3, padding=1))
            self.add_module(f"conv{2 * pair + 2}", nn.Conv2d(filters, filters, 3, padding=1))
            channels, height, width = filters, height // 2, width // 2
        self.fc1 = nn.Linear(channels * height * width, 256)
        self.fc2 = nn.Linear(256, 256)
        self.fc3 = nn.Linear(256, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for pair in range(self.num_pairs):
            x = relu(self.get_submodule(f"conv{2 * pair + 1}")(x))
            x = relu(self.get_submodule(f"conv{2 * pair + 2}")(x))
            x = max_pool2d(x, 2)
        x = x.flatten(1)
        x = relu(self.fc1(x))
        x = relu(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits


class BasicBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return relu(out + self.shortcut(x))


class ResNet20(Network):
    """ResNet-20 for CIFAR (He et al. 2016, section 4.2), with 1x1 projection shortcuts (option B).

    The paper's option A pads channels with zeros, so that units of two widths would share a sum.
    """

    def __init__(self, input_shape: Shape, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(input_shape[0], 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(BasicBlock(16, 16, 1) for _ in range(3)))
        self.layer2 = nn.Sequential(BasicBlock(16, 32, 2), *(BasicBlock(32, 32, 1) for _ in range(2)))
        self.layer3 = nn.Sequential(BasicBlock(32, 64, 2), *(BasicBlock(64, 64, 1) for _ in range(2)))
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = adaptive_avg_pool2d(x, 1).flatten(1)
        logits: Tensor = self.fc(x)
        return logits


class VGG16(Network):
    """VGG-16 for CIFAR: 13 convolutions with batch-norm, and one linear layer (after Simonyan & Zisserman 2015)."""

    STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

    def __init__(self, input_shape: Shape, num_classes: int) -> None:
        super().__init__()
        channels, number = input_shape[0], 0
        for stage in self.STAGES:
            for filters in stage:
                number += 1
                self.add_module(f"conv{number}", nn.Conv2d(channels, filters, 3, padding=1, bias=False))
                self.add_module(f"bn{number}", nn.BatchNorm2d(filters))
                channels = filters
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        number = 0
        for stage in self.STAGES:
            for _ in stage:
                number += 1
                x = self.get_submodule(f"conv{number}")(x)
                x = relu(self.get_submodule(f"bn{number}")(x))
            x = max_pool2d(x, 2)
        x = adaptive_avg_pool2d(x, 1).flatten(1)
        logits: Tensor = self.fc(x)
        return logits


@dataclass(frozen=True)
class Architecture:
    """`smallest`: the least height and width that its pooling leaves something of; None where any shape will do."""

    make: Callable[[Shape, int], Network]
    initialise: Callable[[Tensor], Tensor]
    input_shape: Shape
    smallest: int | None
    num_classes: int = 10


_MNIST, _CIFAR = (1, 28, 28), (3, 32, 32)
_glorot, _he = nn.init.xavier_normal_, nn.init.kaiming_normal_

ARCHITECTURES: dict[str, Architecture] = {
    "lenet_300_100": Architecture(LeNet300100, _glorot, _MNIST, smallest=None),
    "lenet5": Architecture(LeNet5, _glorot, _MNIST, smallest=12),
    "conv2": Architecture(lambda shape, classes: Conv(shape, classes, 1), _glorot, _CIFAR, smallest=2),
    "conv4": Architecture(lambda shape, classes: Conv(shape, classes, 2), _glorot, _CIFAR, smallest=4),
    "conv6": Architecture(lambda shape, classes: Conv(shape, classes, 3), _glorot, _CIFAR, smallest=8),
    "resnet20": Architecture(ResNet20, _he, _CIFAR, smallest=1),
    "vgg16": Architecture(VGG16, _he, _CIFAR, smallest=32),
}


def build(
    architecture: str,
    input_shape: Sequence[int] | None = None,
    num_classes: int | None = None,
    seed: int | None = None,
) -> Network:
    """The named architecture with fresh weights drawn from the seed (0 if none is given) and zero biases.

    Args:
        input_shape: of one example, (channels, height, width) for convolutional ones.

    Raises:
        FormatError: the name is unknown, or the shape or number of classes does not fit.
    """
    if architecture not in ARCHITECTURES:
        raise FormatError("architecture", f"there is no {architecture!r}; use one of {', '.join(ARCHITECTURES)}")
    row = ARCHITECTURES[architecture]
    shape = tuple(row.input_shape if input_shape is None else input_shape)
    classes = row.num_classes if num_classes is None else num_classes
    _check(architecture, row, shape, classes)
    with global_stream(seed or 0, "initialisation"):
        model = row.make(shape, classes)
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                row.initialise(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    model.input_shape = shape
    return model


def _check(name: str, architecture: Architecture, shape: Shape, num_classes: int) -> None:
    if num_classes < 2:
        raise FormatError("num_classes", f"{num_classes} is too few; give 2 or more")
    if not shape or min(shape) < 1:
        raise FormatError("input_shape", f"{shape} has an empty side; give the shape of one example")
    smallest = architecture.smallest
    if smallest is None:
        return
    if len(shape) != 3:
        raise FormatError("input_shape", f"{name} takes (channels, height, width), not {shape}; reshape the examples")
    if min(shape[1:]) < smallest:
        raise FormatError(
            "input_shape",
            f"{shape[1]}x{shape[2]} is too small for {name}, whose pooling needs {smallest}x{smallest} or more; "
            "enlarge the examples or choose another architecture",
        )
