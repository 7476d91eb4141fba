import pytest

from convolt.kernels import conv2d
from convolt.kernels.conv2d import Conv2dSize

SIZES = {
    "lenet5 conv2": Conv2dSize.of((32, 14, 14, 20), (50, 5, 5, 20), padding=2),
    "3x3": Conv2dSize.of((4, 28, 28, 64), (64, 3, 3, 64), padding=1),
    "3x3 stride 2": Conv2dSize.of((4, 28, 28, 64), (64, 3, 3, 64), stride=2, padding=1),
    "1x1": Conv2dSize.of((4, 28, 28, 64), (256, 1, 1, 64)),
    "depthwise 3x3": Conv2dSize.of((4, 28, 28, 64), (64, 3, 3, 1), padding=1, groups=64),
}


def sizes(verb):
    return pytest.mark.parametrize(
        "size",
        [
            pytest.param(size, id=name, marks=pytest.mark.benchmark(group=f"conv2d {verb}, {name}"))
            for name, size in SIZES.items()
        ],
    )


@sizes("fprop")
def test_conv2d_fprop(timed, random, size):
    timed(conv2d.fprop, random(*size.x_shape), random(*size.w_shape), random(size.k), size)


@sizes("dgrad")
def test_conv2d_dgrad(timed, random, size):
    timed(conv2d.dgrad, random(*size.y_shape), random(*size.w_shape), size)


@sizes("wgrad")
def test_conv2d_wgrad(timed, random, size):
    timed(conv2d.wgrad, random(*size.y_shape), random(*size.x_shape), size)
