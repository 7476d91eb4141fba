"""Residual networks (He et al. 2016, "Deep residual learning for image recognition").

The states have the keys and shapes of torchvision's, so that its weights can be loaded. All
convolutions go with their batch-norm, and the end of a block with its shortcut and ReLU, through
``layers.conv_bn_act``.
"""

from __future__ import annotations

from ..engine import Tensor
from ..layers import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Conv2d,
    Linear,
    MaxPool2d,
    Module,
    Sequential,
    conv_bn_act,
    init,
)


class BasicBlock(Module):
    """Two 3x3 convolutions beside a shortcut.

    Where the shape changes, the shortcut is a 1x1 convolution with batch-norm, ``downsample``: the
    paper's option B.
    """

    expansion = 1
    last_norm = "bn2.weight"  # before the shortcut is added

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = BatchNorm2d(channels)
        self.conv2 = Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(channels)
        self.downsample = _downsample(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(f(x) + shortcut(x))."""
        y = conv_bn_act(self.conv1, self.bn1, x)
        return conv_bn_act(self.conv2, self.bn2, y, residual=_shortcut(self.downsample, x))


class Bottleneck(Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; the last has 4 times the channels.

    The stride is that of the 3x3 convolution ("v1.5"), where the paper has it in the first 1x1.
    """

    expansion = 4
    last_norm = "bn3.weight"  # before the shortcut is added

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = BatchNorm2d(channels)
        self.conv2 = Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = BatchNorm2d(channels)
        self.conv3 = Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = BatchNorm2d(out_channels)
        self.downsample = _downsample(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(f(x) + shortcut(x))."""
        y = conv_bn_act(self.conv1, self.bn1, x)
        y = conv_bn_act(self.conv2, self.bn2, y)
        return conv_bn_act(self.conv3, self.bn3, y, residual=_shortcut(self.downsample, x))


def _downsample(in_channels: int, out_channels: int, stride: int) -> Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    conv = Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return Sequential(conv, BatchNorm2d(out_channels))


def _shortcut(downsample: Sequential | None, x: Tensor) -> Tensor:
    if downsample is None:
        return x
    conv, bn = downsample
    return conv_bn_act(conv, bn, x, activation=None)


class ResNet(Module):
    """A stem, stages of blocks ``layer1``, ``layer2``, ..., the mean of each channel, and classes.

    Args:
        block: ``BasicBlock`` or ``Bottleneck``.
        blocks: Blocks of each stage.
        width: Channels of the first stage's 3x3 convolutions; each stage has twice those of the
            one before, and all but the first begin with stride 2.
        large_images: Whether the stem is a 7x7 convolution with stride 2 and a 3x3 max-pooling
            with stride 2, as for ImageNet; else a 3x3 convolution, as for CIFAR.
        in_channels: Of an image.
        num_classes: Outputs.
        zero_init_residual: Start with blocks that pass their input on: the last batch-norm of
            each has weight 0 (Goyal et al. 2017, section 5.1).

    Convolutions start normal with variance 2 / (K R S) (He et al. 2015), batch-norms as 1 and 0.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: tuple[int, ...],
        width: int,
        large_images: bool,
        in_channels: int,
        num_classes: int,
        zero_init_residual: bool,
    ) -> None:
        super().__init__()
        kernel_size, stride = (7, 2) if large_images else (3, 1)
        self.conv1 = Conv2d(
            in_channels, width, kernel_size, stride, padding=kernel_size // 2, bias=False
        )
        self.bn1 = BatchNorm2d(width)
        self.maxpool = MaxPool2d(3, 2, 1) if large_images else None
        channels_in, self._stages = width, len(blocks)
        for i, count in enumerate(blocks):
            stage = Sequential()
            for j in range(count):
                stage.append(block(channels_in, width << i, 2 if i and not j else 1))
                channels_in = (width << i) * block.expansion
            self.add_module(f"layer{i + 1}", stage)
        self.avgpool = AdaptiveAvgPool2d(1)
        self.fc = Linear(channels_in, num_classes)
        for module in self.modules():
            if isinstance(module, Conv2d):
                init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_residual:
            for name, parameter in self.named_parameters():
                if name.endswith(block.last_norm):
                    init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) of images (N, C, H, W)."""
        x = conv_bn_act(self.conv1, self.bn1, x)
        x = x if self.maxpool is None else self.maxpool(x)
        for i in range(self._stages):
            x = getattr(self, f"layer{i + 1}")(x)
        return self.fc(self.avgpool(x).flatten(1))


def resnet20(
    in_channels: int = 3, num_classes: int = 10, width: int = 16, zero_init_residual: bool = False
) -> ResNet:
    """Return the ResNet-20 for images of 32x32 pixels (section 4.2, with option B).

    272,474 parameters; the paper's 0.27 million are with option A, whose shortcuts have none.
    """
    blocks = (3, 3, 3)
    return ResNet(BasicBlock, blocks, width, False, in_channels, num_classes, zero_init_residual)


def resnet50(
    in_channels: int = 3, num_classes: int = 1000, zero_init_residual: bool = False
) -> ResNet:
    """Return the ResNet-50 for images of 224x224 pixels (table 1), v1.5.

    25,557,032 parameters and 4,089,184,256 multiply-adds an image.
    """
    blocks = (3, 4, 6, 3)
    return ResNet(Bottleneck, blocks, 64, True, in_channels, num_classes, zero_init_residual)
