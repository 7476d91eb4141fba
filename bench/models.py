"""The networks whose training is timed, of ``convolt.layers`` and of ``torch.nn``.

``build(name, layers)`` and ``build(name, torch.nn)`` make the same network of either side's
layers, so that the keys and shapes of their states are the same and weights carry over.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import convolt
from convolt import models

CLASSES = 10

INPUT_SHAPE = {
    "lenet5": (28, 28, 1),
    "resnet20": (32, 32, 3),
    "vgg11_cifar": (32, 32, 3),
    "resnet50": (224, 224, 3),
}
"""H, W, C of an image."""


def lenet5(nn: Any) -> Any:
    """LeNet-5 as ``convolt.models`` has it: 1,256,080 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2450, 500),
        nn.ReLU(),
        nn.Linear(500, CLASSES),
    )


def resnet20(nn: Any, width: int = 16) -> Any:
    """ResNet-20 as ``convolt.models`` has it; of PyTorch's layers one by one, with the same names.

    ``width`` is the number of channels of the first stage.
    """
    if nn is convolt.layers:
        return models.build("resnet20", num_classes=CLASSES, width=width)

    class Block(nn.Module):
        def __init__(self, channels_in: int, channels: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(channels)
            self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(channels)
            self.relu = nn.ReLU(inplace=True)
            self.downsample = nn.Identity()
            if stride != 1:
                self.downsample = nn.Sequential(
                    nn.Conv2d(channels_in, channels, 1, stride, bias=False),
                    nn.BatchNorm2d(channels),
                )

        def forward(self, x: Any) -> Any:
            y = self.relu(self.bn1(self.conv1(x)))
            return self.relu(self.bn2(self.conv2(y)) + self.downsample(x))

    def stage(channels_in: int, channels: int) -> Any:
        stride = 1 if channels_in == channels else 2
        rest = (Block(channels, channels, 1) for _ in range(2))
        return nn.Sequential(Block(channels_in, channels, stride), *rest)

    named = {
        "conv1": nn.Conv2d(3, width, 3, padding=1, bias=False),
        "bn1": nn.BatchNorm2d(width),
        "relu": nn.ReLU(inplace=True),
        "layer1": stage(width, width),
        "layer2": stage(width, 2 * width),
        "layer3": stage(2 * width, 4 * width),
        "avgpool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(4 * width, CLASSES),
    }
    return nn.Sequential(OrderedDict(named))


def resnet50(nn: Any) -> Any:
    """ResNet-50 as ``convolt.models`` has it; of PyTorch's layers one by one, with the same names.

    23,528,522 parameters with 10 classes.
    """
    if nn is convolt.layers:
        return models.build("resnet50", num_classes=CLASSES)

    class Block(nn.Module):
        def __init__(self, channels_in: int, channels: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(channels)
            self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(channels)
            self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(4 * channels)
            self.relu = nn.ReLU(inplace=True)
            self.downsample = nn.Identity()
            if channels_in != 4 * channels:
                self.downsample = nn.Sequential(
                    nn.Conv2d(channels_in, 4 * channels, 1, stride, bias=False),
                    nn.BatchNorm2d(4 * channels),
                )

        def forward(self, x: Any) -> Any:
            y = self.relu(self.bn1(self.conv1(x)))
            y = self.relu(self.bn2(self.conv2(y)))
            return self.relu(self.bn3(self.conv3(y)) + self.downsample(x))

    def stage(channels_in: int, channels: int, blocks: int, stride: int) -> Any:
        rest = (Block(4 * channels, channels, 1) for _ in range(blocks - 1))
        return nn.Sequential(Block(channels_in, channels, stride), *rest)

    named = {
        "conv1": nn.Conv2d(3, 64, 7, 2, padding=3, bias=False),
        "bn1": nn.BatchNorm2d(64),
        "relu": nn.ReLU(inplace=True),
        "maxpool": nn.MaxPool2d(3, 2, 1),
        "layer1": stage(64, 64, 3, 1),
        "layer2": stage(256, 128, 4, 2),
        "layer3": stage(512, 256, 6, 2),
        "layer4": stage(1024, 512, 3, 2),
        "avgpool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(2048, CLASSES),
    }
    return nn.Sequential(OrderedDict(named))


def vgg11_cifar(nn: Any) -> Any:
    """VGG-11 for images of 32x32 pixels.

    The convolutions are configuration A of Simonyan and Zisserman 2015, without batch-norm. Five
    poolings leave one pixel of 512 channels, and one linear layer follows, as is usual for CIFAR,
    in the place of the paper's three. 9,225,610 parameters.
    """

    def layers() -> Iterator[Any]:
        channels_in = 3
        for stage in ((64,), (128,), (256, 256), (512, 512), (512, 512)):
            for channels in stage:
                yield nn.Conv2d(channels_in, channels, 3, padding=1)
                yield nn.ReLU(inplace=True)
                channels_in = channels
            yield nn.MaxPool2d(2)
        yield from (nn.Flatten(), nn.Linear(512, CLASSES))

    return nn.Sequential(*layers())


MODELS: dict[str, Callable[[Any], Any]] = {
    "lenet5": lenet5,
    "resnet20": resnet20,
    "vgg11_cifar": vgg11_cifar,
    "resnet50": resnet50,
}

SMALL = ("lenet5", "resnet20", "vgg11_cifar")
"""Those that a CPU trains in little time."""


def build(name: str, nn: Any) -> Any:
    """Return a new network of the layers of ``nn``."""
    return MODELS[name](nn)
