"""Pooling agrees with PyTorch: shapes, values, indices, gradients, and what is refused."""

from itertools import product

import numpy as np
import pytest

from convolt.kernels import adaptive_avg_pool2d, avg_pool2d, max_pool2d
from convolt.kernels.pooling_window import PoolSize

torch = pytest.importorskip("torch")

IMAGES = [(7, 6), (5, 9), (1, 4), (8, 3), (4, 4)]
STRIDES = [None, 1, 2, (3, 2), 5]
KERNELS = [1, 2, 3, (2, 3), (5, 4)]
PADDINGS = [0, 1, (1, 0), 2]


def as_torch(x):
    """(N, H, W, C) -> (N, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def from_torch(y):
    """(N, C, P, Q) -> (N, P, Q, C)."""
    return y.detach().numpy().transpose(0, 2, 3, 1)


def sized_as_torch(op, x_shape, window, function, x):
    """The size and PyTorch's result, or None when both refuse."""
    try:
        expected = function(x)
    except RuntimeError:
        with pytest.raises(ValueError, match=f"^{op}: "):
            PoolSize.of(op, x_shape, **window)
        return None
    try:
        return PoolSize.of(op, x_shape, **window), expected
    except ValueError as error:
        # PyTorch gives -inf, and an index outside the image, for a window with no tap on it.
        if "no tap on the image" not in str(error):
            raise
        assert bool((expected[0] == -np.inf).any())
        return None


def images(rng, shape):
    """Integers with many ties, on which sums are exact; NaN and infinities among them."""
    x = rng.integers(-3, 4, shape).astype(np.float32)
    special = rng.choice(np.array([np.nan, np.inf, -np.inf], np.float32), shape)
    return x, np.where(rng.random(shape) < 0.1, special, x)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("dilation", [1, 2, (1, 3), 5])
def test_max_pool2d(backend, rng, dilation, ceil_mode):
    compared = 0
    for image, kernel_size, stride, padding in product(IMAGES, KERNELS, STRIDES, PADDINGS):
        window = {
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "ceil_mode": ceil_mode,
        }
        _, x = images(rng, (2, *image, 3))
        leaf = as_torch(x).requires_grad_()

        def pool(leaf, window=window):
            return torch.nn.functional.max_pool2d(leaf, **window, return_indices=True)

        if (both := sized_as_torch("max_pool2d", x.shape, window, pool, leaf)) is None:
            continue
        compared += 1
        size, (expected, indices) = both
        y, argmax = max_pool2d.forward(x, size)
        np.testing.assert_array_equal(y, from_torch(expected), err_msg=str((image, window)))
        np.testing.assert_array_equal(
            max_pool2d.indices(argmax, size), from_torch(indices), err_msg=str((image, window))
        )
        grad_y = rng.integers(-4, 5, y.shape).astype(np.float32)
        expected.backward(as_torch(grad_y))
        np.testing.assert_array_equal(
            max_pool2d.backward(grad_y, argmax, size), from_torch(leaf.grad)
        )
    assert compared > 50


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("count_include_pad", [False, True])
@pytest.mark.parametrize("divisor_override", [None, 1, 7, -3])
def test_avg_pool2d(backend, rng, ceil_mode, count_include_pad, divisor_override):
    compared = 0
    for image, kernel_size, stride, padding in product(IMAGES, KERNELS, STRIDES, PADDINGS):
        window = {
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": padding,
            "ceil_mode": ceil_mode,
        }
        divisor = {"count_include_pad": count_include_pad, "divisor_override": divisor_override}
        x, _ = images(rng, (2, *image, 3))
        leaf = as_torch(x).requires_grad_()

        def pool(leaf, window=window, divisor=divisor):
            return torch.nn.functional.avg_pool2d(leaf, **window, **divisor)

        if (both := sized_as_torch("avg_pool2d", x.shape, window, pool, leaf)) is None:
            continue
        compared += 1
        size, expected = both
        y = avg_pool2d.forward(x, size, **divisor)
        np.testing.assert_array_equal(y, from_torch(expected), err_msg=str((image, window)))
        grad_y = rng.integers(-4, 5, y.shape).astype(np.float32)
        expected.backward(as_torch(grad_y))
        # Shares of a gradient are not integers, and PyTorch may add them in another order.
        np.testing.assert_allclose(
            avg_pool2d.backward(grad_y, size, **divisor), from_torch(leaf.grad), rtol=0, atol=1e-5
        )
    assert compared > 50


def test_adaptive_avg_pool2d(backend, rng):
    for image, output_size in product(IMAGES, [(1, 1), (2, 3), (4, 4), (7, 5), (0, 2)]):
        x = rng.integers(-3, 4, (2, *image, 3)).astype(np.float32)
        leaf = as_torch(x).requires_grad_()
        expected = torch.nn.functional.adaptive_avg_pool2d(leaf, output_size)
        y = adaptive_avg_pool2d.forward(x, output_size)
        np.testing.assert_allclose(y, from_torch(expected), rtol=1e-6, atol=1e-6)
        grad_y = rng.integers(-4, 5, y.shape).astype(np.float32)
        if y.size:
            expected.backward(as_torch(grad_y))
            grad_x = adaptive_avg_pool2d.backward(grad_y, x.shape)
            np.testing.assert_allclose(grad_x, from_torch(leaf.grad), rtol=0, atol=1e-5)
