"""adaptive_avg_pool2d: every backend against the definition by loops, adjoint, errors."""

import math

import ml_dtypes
import numpy as np
import pytest
from tolerance import assert_within

from convolt.kernels import adaptive_avg_pool2d
from convolt.kernels.backend import use_backend

# name: (x (N,H,W,C), output_size)
CASES = {
    "divides": ((2, 6, 8, 3), (3, 2)),
    "overlapping": ((2, 7, 5, 3), (3, 4)),
    "global": ((3, 7, 7, 37), (1, 1)),
    "global_large": ((1, 61, 53, 3), (1, 1)),
    "same_size": ((1, 4, 5, 2), (4, 5)),
    "larger_than_image": ((2, 3, 2, 3), (7, 5)),
    "one_pixel": ((2, 1, 1, 3), (1, 1)),
    "one_pixel_to_many": ((2, 1, 1, 3), (3, 2)),
    "primes": ((1, 13, 11, 5), (7, 3)),
    "one_side": ((2, 5, 6, 3), (1, 6)),
    "packs_of_channels": ((2, 7, 5, 16), (3, 4)),
    "empty_batch": ((0, 5, 6, 3), (2, 2)),
    "no_channels": ((2, 5, 6, 0), (2, 2)),
    "no_windows": ((2, 5, 6, 3), (0, 2)),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def problem(request):
    return request.param


def spans(length, count):
    return [
        (math.floor(i * length / count), math.ceil((i + 1) * length / count)) for i in range(count)
    ]


def by_hand(x, grad_y):
    """y and grad_x, by loops over the windows and their pixels."""
    y, grad_x = np.zeros(grad_y.shape), np.zeros(x.shape)
    for p, (top, bottom) in enumerate(spans(x.shape[1], y.shape[1])):
        for q, (left, right) in enumerate(spans(x.shape[2], y.shape[2])):
            cells = (bottom - top) * (right - left)
            for h in range(top, bottom):
                for w in range(left, right):
                    y[:, p, q] += x[:, h, w] / cells
                    grad_x[:, h, w] += grad_y[:, p, q] / cells
    return y, grad_x


def y_shape_of(x_shape, output_size):
    return (x_shape[0], *output_size, x_shape[3])


def run(x, grad_y):
    y = adaptive_avg_pool2d.forward(x, grad_y.shape[1:3])
    return y, adaptive_avg_pool2d.backward(grad_y, x.shape)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_equals_the_definition(backend, problem, rng, dtype, nan_results):
    x_shape, output_size = problem
    x = rng.standard_normal(x_shape).astype(dtype)
    grad_y = rng.standard_normal(y_shape_of(x_shape, output_size)).astype(dtype)
    wide = x.astype(np.float64), grad_y.astype(np.float64)
    expected, magnitude = by_hand(*wide), by_hand(*map(abs, wide))
    with nan_results(adaptive_avg_pool2d):
        got = run(x, grad_y)
    for g, e, m in zip(got, expected, magnitude, strict=True):
        assert g.dtype == dtype
        assert_within(g, e, m, x_shape[1] * x_shape[2] + 1)


def test_integers_give_numpys_bits(backend, problem, rng):
    x_shape, output_size = problem
    x = rng.integers(-4, 5, x_shape).astype(np.float32)
    grad_y = rng.integers(-4, 5, y_shape_of(x_shape, output_size)).astype(np.float32)
    got = run(x, grad_y)
    with use_backend("numpy"):
        expected = run(x, grad_y)
    for result, ref in zip(got, expected, strict=True):
        np.testing.assert_array_equal(result, ref)


def test_bfloat16_is_summed_in_float32_and_rounded(backend, problem, rng, nan_results):
    x_shape, output_size = problem
    x = rng.standard_normal(x_shape).astype(ml_dtypes.bfloat16)
    grad_y = rng.standard_normal(y_shape_of(x_shape, output_size)).astype(ml_dtypes.bfloat16)
    if backend != "emulator":
        with pytest.raises(TypeError, match="adaptive_avg_pool2d: x has dtype bfloat16"):
            run(x, grad_y)
        return
    wide = x.astype(np.float64), grad_y.astype(np.float64)
    expected, magnitude = by_hand(*wide), by_hand(*map(abs, wide))
    with nan_results(adaptive_avg_pool2d):
        got = run(x, grad_y)
    for g, e, m in zip(got, expected, magnitude, strict=True):
        assert g.dtype == x.dtype
        assert_within(g, e, m, x_shape[1] * x_shape[2] + 1)


def test_backward_is_the_adjoint_of_forward(backend, problem, rng):
    x_shape, output_size = problem
    x = rng.standard_normal(x_shape)
    grad_y = rng.standard_normal(y_shape_of(x_shape, output_size))
    y, grad_x = run(x, grad_y)
    scale = np.vdot(abs(grad_y), abs(y)) + 1e-300
    assert abs(np.vdot(grad_x, x) - np.vdot(grad_y, y)) <= 1e-12 * scale


def test_one_window_is_the_mean_of_the_image(backend, rng):
    x = rng.integers(-4, 5, (2, 4, 8, 5)).astype(np.float32)  # 32 pixels: the mean is exact
    y = adaptive_avg_pool2d.forward(x, 1)
    np.testing.assert_array_equal(y, x.mean((1, 2), keepdims=True))
    grad_x = adaptive_avg_pool2d.backward(y, x.shape)
    np.testing.assert_array_equal(grad_x, np.broadcast_to(y / 32, x.shape))


def test_bad_input_is_refused_and_the_next_call_is_right(backend, rng):
    x = rng.standard_normal((2, 4, 6, 3))
    y = adaptive_avg_pool2d.forward(x, (2, 3))
    for bad, output_size, error, message in [
        (x.astype(np.float16), 1, TypeError, "adaptive_avg_pool2d: x has dtype float16"),
        (x.tolist(), 1, TypeError, "x is list, not an array"),
        (x[0], 1, ValueError, "x must have 4 axes"),
        (x[:, :0], 1, ValueError, "at least one pixel"),
        (x[:, :, :0], 2, ValueError, "at least one pixel"),
        (np.asfortranarray(x), 1, ValueError, "not C-contiguous"),
        (x, -1, ValueError, "output_size must be >= 0"),
        (x, 1.5, TypeError, "output_size must be an int or a pair of ints"),
        (x, (1, 2, 3), ValueError, "output_size must be an int or a pair of ints"),
        (x, 2**20, ValueError, "y would have 6,597,069,766,656 elements"),
    ]:
        with pytest.raises(error, match=message):
            adaptive_avg_pool2d.forward(bad, output_size)
    for bad, x_shape, error, message in [
        (y.astype(np.float16), x.shape, TypeError, "grad_y has dtype float16"),
        (y[0], x.shape, ValueError, "grad_y must have 4 axes"),
        (np.asfortranarray(y), x.shape, ValueError, "not C-contiguous"),
        (y, (3, 4, 6, 3), ValueError, r"grad_y has shape \(2, 2, 3, 3\), expected \(3, 2, 3, 3\)"),
        (y, (4, 6, 3), ValueError, "x_shape must be"),
        (y, (2, 0, 6, 3), ValueError, "x_shape must be"),
        (y, (2, 2**20, 2**20, 3), ValueError, "grad_x would have"),
    ]:
        with pytest.raises(error, match=message):
            adaptive_avg_pool2d.backward(bad, x_shape)
    expected = by_hand(x, y)[0]
    assert_within(y, expected, abs(expected) + 4, 4)
    np.testing.assert_array_equal(adaptive_avg_pool2d.forward(x, (2, 3)), y)
