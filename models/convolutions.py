"""Convolutions of well-known networks: what kernels are timed on, and judged by.

    convolutions("resnet50", batch=256)

Where the shapes come from:

- alexnet, googlenet, resnet50, and vgg16 as the part of VGG-19 that it shares: the input lists of
  oneDNN's benchdnn (commit 515bfba, Apache-2.0). alexnet is the network of 2012 with its groups;
  resnet50 is v1.5, whose stride lies in the 3x3 convolutions; googlenet has its auxiliary heads.
- deepbench: the training set of Baidu's DeepBench (commit da81ba7, Apache-2.0), in
  ``deepbench_train.csv``; equal lines become one convolution with a count.
- soumith: the five layers of Soumith Chintala's convnet-benchmarks.
- lenet5: the network that ``lenet5.py`` builds. cifar: ResNet-20, Caffe's CIFAR-10 quick and
  a VGG-like net of three stages.

benchdnn writes the padding of some strided layers unevenly (3 before and 2 after), because the
last line of the image's padding is never read. The same convolution with equal padding is listed
here; no entry of these networks needs padding that is truly uneven, and none is left out.
"""

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..kernels.conv2d import Conv2dSize

NETWORKS = (
    "lenet5",
    "cifar",
    "alexnet",
    "vgg16",
    "googlenet",
    "resnet50",
    "deepbench",
    "soumith",
)


@dataclass(frozen=True, slots=True)
class Convolution:
    """One convolution: x (N,H,W,C), w (K,R,S,C/groups), and how often its network has it."""

    network: str
    name: str
    n: int
    c: int
    h: int
    w: int
    k: int
    r: int
    s: int
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    count: int = 1

    @property
    def size(self) -> Conv2dSize:
        """As the kernels take it.

        Raises:
            ValueError: The shapes do not fit each other.
        """
        return Conv2dSize.of(
            (self.n, self.h, self.w, self.c),
            (self.k, self.r, self.s, self.c // self.groups),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    @property
    def verbs(self) -> tuple[str, ...]:
        """What a training step computes: no gradient with respect to images, of 1 or 3 channels."""
        return ("fprop", "wgrad") if self.c in (1, 3) else ("fprop", "dgrad", "wgrad")


def convolutions(network: str, batch: int | None) -> tuple[Convolution, ...]:
    """Return the distinct convolutions of ``network`` in the order of its layers.

    Args:
        network: One of ``NETWORKS``.
        batch: Images; None for what each line of deepbench says, from 4 to 32, elsewhere for 1.

    Raises:
        ValueError: There is no such network, or ``batch`` is < 1.
    """
    if network not in NETWORKS:
        raise ValueError(f"unknown network {network!r}; the networks are {', '.join(NETWORKS)}")
    if batch is not None and batch < 1:
        raise ValueError(f"batch must be >= 1, got {batch}")
    listed = tuple(_deepbench(batch) if network == "deepbench" else _layers(network, batch))
    for convolution in listed:
        _ = convolution.size  # raises when a line of the tables is wrong
    return listed


def _layers(network: str, batch: int | None) -> Iterator[Convolution]:
    """Read the network's table, whose images and windows are square."""
    for line in _TABLES[network].strip().splitlines():
        name, *numbers = line.split()
        c, pixels, k, window, stride, padding, groups, count = map(int, numbers)
        yield Convolution(
            *(network, name, batch or 1, c, pixels, pixels, k, window, window),
            stride=(stride, stride),
            padding=(padding, padding),
            groups=groups,
            count=count,
        )


def _deepbench(batch: int | None) -> Iterator[Convolution]:
    found: Counter[Convolution] = Counter()
    with (Path(__file__).parent / "deepbench_train.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            n, c, h, w, k, r, s = (int(row[letter]) for letter in "NCHWKRS")
            found[
                Convolution(
                    *("deepbench", f"{c}x{h}x{w}-{k}x{r}x{s}", batch or n, c, h, w, k, r, s),
                    stride=(int(row["stride_h"]), int(row["stride_w"])),
                    padding=(int(row["pad_h"]), int(row["pad_w"])),
                )
            ] += 1
    return (replace(one, count=count) for one, count in found.items())


# name, C, H = W, K, R = S, stride, padding, groups, count
_TABLES = {
    "lenet5": """
conv1    1 28 20 5 1 2 1 1
conv2   20 14 50 5 1 2 1 1
""",
    "cifar": """
resnet20_conv1           3 32  16 3 1 1 1 1
resnet20_stage1         16 32  16 3 1 1 1 6
resnet20_stage2_first   16 32  32 3 2 1 1 1
resnet20_stage2         32 16  32 3 1 1 1 5
resnet20_stage3_first   32 16  64 3 2 1 1 1
resnet20_stage3         64  8  64 3 1 1 1 5
quick_conv1              3 32  32 5 1 2 1 1
quick_conv2             32 16  32 5 1 2 1 1
quick_conv3             32  8  64 5 1 2 1 1
vgg_conv1_1              3 32  64 3 1 1 1 1
vgg_conv1_2             64 32  64 3 1 1 1 1
vgg_conv2_1             64 16 128 3 1 1 1 1
vgg_conv2_2            128 16 128 3 1 1 1 1
vgg_conv3_1            128  8 256 3 1 1 1 1
vgg_conv3_2            256  8 256 3 1 1 1 1
""",
    "alexnet": """
conv1     3 227  96 11 4 0 1 1
conv2    96  27 256  5 1 2 2 1
conv3   256  13 384  3 1 1 1 1
conv4   384  13 384  3 1 1 2 1
conv5   384  13 256  3 1 1 2 1
""",
    "vgg16": """
conv1_1     3 224  64 3 1 1 1 1
conv1_2    64 224  64 3 1 1 1 1
conv2_1    64 112 128 3 1 1 1 1
conv2_2   128 112 128 3 1 1 1 1
conv3_1   128  56 256 3 1 1 1 1
conv3_2   256  56 256 3 1 1 1 2
conv4_1   256  28 512 3 1 1 1 1
conv4_2   512  28 512 3 1 1 1 2
conv5_1   512  14 512 3 1 1 1 3
""",
    "googlenet": """
conv1_7x7_s2        3 224  64 7 2 3 1 1
conv2_3x3_reduce   64  56  64 1 1 0 1 1
conv2_3x3          64  56 192 3 1 1 1 1
3a_1x1            192  28  64 1 1 0 1 1
3a_3x3_reduce     192  28  96 1 1 0 1 1
3a_3x3             96  28 128 3 1 1 1 1
3a_5x5_reduce     192  28  16 1 1 0 1 1
3a_5x5             16  28  32 5 1 2 1 1
3a_pool_proj      192  28  32 1 1 0 1 1
3b_1x1            256  28 128 1 1 0 1 2
3b_3x3            128  28 192 3 1 1 1 1
3b_5x5_reduce     256  28  32 1 1 0 1 1
3b_5x5             32  28  96 5 1 2 1 1
3b_pool_proj      256  28  64 1 1 0 1 1
4a_1x1            480  14 192 1 1 0 1 1
4a_3x3_reduce     480  14  96 1 1 0 1 1
4a_3x3             96  14 208 3 1 1 1 1
4a_5x5_reduce     480  14  16 1 1 0 1 1
4a_5x5             16  14  48 5 1 2 1 1
4a_pool_proj      480  14  64 1 1 0 1 1
loss1_conv        512   4 128 1 1 0 1 1
4b_1x1            512  14 160 1 1 0 1 1
4b_3x3_reduce     512  14 112 1 1 0 1 2
4b_3x3            112  14 224 3 1 1 1 1
4b_5x5_reduce     512  14  24 1 1 0 1 2
4b_5x5             24  14  64 5 1 2 1 2
4b_pool_proj      512  14  64 1 1 0 1 3
4c_1x1            512  14 128 1 1 0 1 2
4c_3x3            128  14 256 3 1 1 1 1
4d_3x3_reduce     512  14 144 1 1 0 1 1
4d_3x3            144  14 288 3 1 1 1 1
4d_5x5_reduce     512  14  32 1 1 0 1 1
4d_5x5             32  14  64 5 1 2 1 1
loss2_conv        528   4 128 1 1 0 1 1
4e_1x1            528  14 256 1 1 0 1 1
4e_3x3_reduce     528  14 160 1 1 0 1 1
4e_3x3            160  14 320 3 1 1 1 1
4e_5x5_reduce     528  14  32 1 1 0 1 1
4e_5x5             32  14 128 5 1 2 1 1
4e_pool_proj      528  14 128 1 1 0 1 1
5a_1x1            832   7 256 1 1 0 1 1
5a_3x3_reduce     832   7 160 1 1 0 1 1
5a_3x3            160   7 320 3 1 1 1 1
5a_5x5_reduce     832   7  32 1 1 0 1 1
5a_5x5             32   7 128 5 1 2 1 1
5a_pool_proj      832   7 128 1 1 0 1 2
5b_1x1            832   7 384 1 1 0 1 1
5b_3x3_reduce     832   7 192 1 1 0 1 1
5b_3x3            192   7 384 3 1 1 1 1
5b_5x5_reduce     832   7  48 1 1 0 1 1
5b_5x5             48   7 128 5 1 2 1 1
""",
    "resnet50": """
conv1              3 224   64 7 2 3 1 1
res2a_branch1     64  56  256 1 1 0 1 4
res2a_branch2a    64  56   64 1 1 0 1 1
res2a_branch2b    64  56   64 3 1 1 1 3
res2b_branch2a   256  56   64 1 1 0 1 2
res3a_branch1    256  56  512 1 2 0 1 1
res3a_branch2a   256  56  128 1 1 0 1 1
res3a_branch2b   128  56  128 3 2 1 1 1
res3a_branch2c   128  28  512 1 1 0 1 4
res3b_branch2a   512  28  128 1 1 0 1 3
res3b_branch2b   128  28  128 3 1 1 1 3
res4a_branch1    512  28 1024 1 2 0 1 1
res4a_branch2a   512  28  256 1 1 0 1 1
res4a_branch2b   256  28  256 3 2 1 1 1
res4a_branch2c   256  14 1024 1 1 0 1 6
res4b_branch2a  1024  14  256 1 1 0 1 5
res4b_branch2b   256  14  256 3 1 1 1 5
res5a_branch1   1024  14 2048 1 2 0 1 1
res5a_branch2a  1024  14  512 1 1 0 1 1
res5a_branch2b   512  14  512 3 2 1 1 1
res5a_branch2c   512   7 2048 1 1 0 1 3
res5b_branch2a  2048   7  512 1 1 0 1 2
res5b_branch2b   512   7  512 3 1 1 1 2
""",
    "soumith": """
layer1     3 128  96 11 1 0 1 1
layer2    64  64 128  9 1 0 1 1
layer3   128  32 128  9 1 0 1 1
layer4   128  16 128  7 1 0 1 1
layer5   384  13 384  3 1 0 1 1
""",
}
