"""The networks whose training is timed, written once for ``convolt.layers`` and ``torch.nn``.

``build(name, layers)`` and ``build(name, torch.nn)`` make the same network of either side's
layers, so that the keys and shapes of their states are the same and weights carry over.
"""

from collections.abc import Callable, Iterator
from typing import Any

CLASSES = 10

INPUT_SHAPE = {"lenet5": (28, 28, 1), "resnet20": (32, 32, 3), "vgg11_cifar": (32, 32, 3)}
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
    """ResNet-20 of He et al. 2015, section 4.2, for images of 32x32 pixels.

    A 3x3 convolution, three stages of three blocks, of ``width``, twice and four times as many
    channels, of which the last two begin with stride 2, the mean of each channel, and a linear
    layer. A block is two 3x3
    convolutions with batch-norm beside a shortcut; where the shape changes, the shortcut is a 1x1
    convolution with batch-norm (the paper's option B; its results on CIFAR have option A, which
    pads with channels of zeros). 272,474 parameters at the paper's width of 16.
    """

    class Block(nn.Module):
        def __init__(self, channels_in: int, channels: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(channels)
            self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(channels)
            self.relu = nn.ReLU(inplace=True)
            self.shortcut = nn.Identity()
            if stride != 1:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(channels_in, channels, 1, stride, bias=False),
                    nn.BatchNorm2d(channels),
                )

        def forward(self, x: Any) -> Any:
            y = self.relu(self.bn1(self.conv1(x)))
            return self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))

    def layers() -> Iterator[Any]:
        yield from (nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        yield nn.ReLU(inplace=True)
        channels_in = width
        for channels in (width, 2 * width, 4 * width):
            for _ in range(3):
                yield Block(channels_in, channels, 1 if channels_in == channels else 2)
                channels_in = channels
        yield from (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, CLASSES))

    return nn.Sequential(*layers())


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
}


def build(name: str, nn: Any) -> Any:
    """Return a new network of the layers of ``nn``."""
    return MODELS[name](nn)
