"""avg_pool2d: every backend against the definition by loops, divisors, adjoint, errors."""

import ml_dtypes
import numpy as np
import pytest
from pooling import POOLINGS, on_image, windows
from threads import results_by_threads
from tolerance import assert_within

from convolt.kernels import avg_pool2d
from convolt.kernels.backend import use_backend
from convolt.kernels.pooling_window import PoolSize

DIVISORS = {
    "count_pad": (True, None),
    "count_image": (False, None),
    "override": (True, 3),
    "override_negative": (False, -2),
}


def sized(x_shape, **window):
    return PoolSize.of("avg_pool2d", x_shape, **window)


@pytest.fixture(params=POOLINGS.values(), ids=POOLINGS.keys())
def problem(request):
    x_shape, window = request.param
    return x_shape, window, sized(x_shape, **window)


@pytest.fixture(params=DIVISORS.values(), ids=DIVISORS.keys())
def divisor(request):
    return request.param


def shares(x_shape, window, count_include_pad, divisor_override):
    """Yield (p, q, cells on the image, divisor) of each window."""
    pads = window.get("padding", 0)
    pad_h, pad_w = pads if isinstance(pads, tuple) else (pads, pads)
    for (p, q), cells in windows(x_shape, **window)[1].items():
        inside = on_image(x_shape, cells)
        padded = [
            (t, h, w) for t, h, w in cells if h < x_shape[1] + pad_h and w < x_shape[2] + pad_w
        ]
        count = len(padded) if count_include_pad else len(inside)
        yield p, q, inside, count if divisor_override is None else divisor_override


def by_hand(x, grad_y, window, divisor):
    """y and grad_x, by loops over the windows and their cells."""
    y, grad_x = np.zeros(grad_y.shape), np.zeros(x.shape)
    for p, q, cells, count in shares(x.shape, window, *divisor):
        for _, h, w in cells:
            y[:, p, q] += x[:, h, w] / count
            grad_x[:, h, w] += grad_y[:, p, q] / count
    return y, grad_x


def run(x, grad_y, size, divisor):
    return avg_pool2d.forward(x, size, *divisor), avg_pool2d.backward(grad_y, size, *divisor)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_equals_the_definition(backend, problem, divisor, rng, dtype, nan_results):
    x_shape, window, size = problem
    x = rng.standard_normal(x_shape).astype(dtype)
    grad_y = rng.standard_normal(size.y_shape).astype(dtype)
    wide = x.astype(np.float64), grad_y.astype(np.float64)
    expected = by_hand(*wide, window, divisor)
    magnitude = by_hand(*map(abs, wide), window, (divisor[0], divisor[1] and abs(divisor[1])))
    with nan_results(avg_pool2d):
        got = run(x, grad_y, size, divisor)
    for g, e, m in zip(got, expected, magnitude, strict=True):
        assert g.dtype == dtype
        assert_within(g, e, m, size.window_cells + 1)


def test_integers_give_numpys_bits(backend, problem, divisor, rng):
    x_shape, _, size = problem
    x = rng.integers(-4, 5, x_shape).astype(np.float32)
    grad_y = rng.integers(-4, 5, size.y_shape).astype(np.float32)
    got = run(x, grad_y, size, divisor)
    with use_backend("numpy"):
        expected = run(x, grad_y, size, divisor)
    for result, ref in zip(got, expected, strict=True):
        np.testing.assert_array_equal(result, ref)


def test_bfloat16_is_summed_in_float32_and_rounded(backend, problem, divisor, rng, nan_results):
    x_shape, window, size = problem
    x = rng.standard_normal(x_shape).astype(ml_dtypes.bfloat16)
    grad_y = rng.standard_normal(size.y_shape).astype(ml_dtypes.bfloat16)
    if backend != "emulator":
        with pytest.raises(TypeError, match="avg_pool2d: x has dtype bfloat16"):
            run(x, grad_y, size, divisor)
        return
    wide = x.astype(np.float64), grad_y.astype(np.float64)
    expected = by_hand(*wide, window, divisor)
    magnitude = by_hand(*map(abs, wide), window, (divisor[0], divisor[1] and abs(divisor[1])))
    with nan_results(avg_pool2d):
        got = run(x, grad_y, size, divisor)
    for g, e, m in zip(got, expected, magnitude, strict=True):
        assert g.dtype == x.dtype
        assert_within(g, e, m, size.window_cells + 1)


@pytest.mark.parametrize("channels", [1, 3, 16, 20, 31, 64, 65, 131])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_number_of_channels_on_any_number_of_threads(rng, dtype, channels):
    """On the CPU channels are cut into vectors, groups of vectors, and a rest."""
    size = sized((2, 5, 6, channels), kernel_size=3, stride=2, padding=1)
    x = rng.integers(-4, 5, size.x_shape).astype(dtype)
    grad_y = rng.integers(-4, 5, size.y_shape).astype(dtype)
    with use_backend("numpy"):
        expected = run(x, grad_y, size, (True, None))
    with use_backend("numba"):
        results = results_by_threads(lambda: run(x, grad_y, size, (True, None)))
    for result in results:
        for got, ref in zip(result, expected, strict=True):
            np.testing.assert_array_equal(got, ref)


def test_backward_is_the_adjoint_of_forward(backend, problem, divisor, rng):
    x_shape, _, size = problem
    x, grad_y = rng.standard_normal(x_shape), rng.standard_normal(size.y_shape)
    y, grad_x = run(x, grad_y, size, divisor)
    scale = np.vdot(abs(grad_y), abs(y)) + 1e-300
    assert abs(np.vdot(grad_x, x) - np.vdot(grad_y, y)) <= 1e-12 * scale


def test_a_constant_image_shows_what_each_divisor_counts(backend):
    # Windows of 3 x 3, step 2, on 4 x 4 pixels padded by 1. The last of the three windows that
    # ceil_mode gives start at pixel 3: they have one line on the image, one on the padding and
    # one beyond it, which never counts.
    x = np.full((1, 4, 4, 1), 36, np.float32)
    size = sized(x.shape, kernel_size=3, stride=2, padding=1, ceil_mode=True)

    def averages(*divisor):
        return avg_pool2d.forward(x, size, *divisor)[0, :, :, 0]

    on_image = np.outer([2, 3, 1], [2, 3, 1])
    np.testing.assert_array_equal(averages(), 36 * on_image / np.outer([3, 3, 2], [3, 3, 2]))
    np.testing.assert_array_equal(averages(False), np.full((3, 3), 36))
    np.testing.assert_array_equal(averages(True, 4), 9 * on_image)


def test_a_nan_stays_in_the_windows_over_it(backend):
    x = np.ones((1, 4, 4, 1))
    x[0, 1, 2, 0] = np.nan
    size = sized(x.shape, kernel_size=2)
    y = avg_pool2d.forward(x, size)
    np.testing.assert_array_equal(y[0, :, :, 0], [[1, np.nan], [1, 1]])


def test_bad_input_is_refused_and_the_next_call_is_right(backend, rng):
    x = rng.standard_normal((2, 4, 6, 3))
    size = sized(x.shape, kernel_size=2)
    y = avg_pool2d.forward(x, size)
    for bad, error, message in [
        (x.astype(np.float16), TypeError, "avg_pool2d: x has dtype float16"),
        (x.astype(np.int32), TypeError, "x has dtype int32"),
        (x[0], ValueError, r"x has shape \(4, 6, 3\), expected \(2, 4, 6, 3\)"),
        (np.asfortranarray(x), ValueError, "not C-contiguous"),
    ]:
        with pytest.raises(error, match=message):
            avg_pool2d.forward(bad, size)
    for bad, error, message in [
        (y.astype(np.float16), TypeError, "grad_y has dtype float16"),
        (x, ValueError, "grad_y has shape"),
        (np.asfortranarray(y), ValueError, "not C-contiguous"),
    ]:
        with pytest.raises(error, match=message):
            avg_pool2d.backward(bad, size)
    for bad, error, message in [
        (0, ValueError, "divisor_override must not be 0"),
        (2.5, TypeError, "divisor_override must be an int or None, got 2.5"),
        (True, TypeError, "divisor_override must be an int or None, got True"),
    ]:
        with pytest.raises(error, match=message):
            avg_pool2d.forward(x, size, True, bad)
        with pytest.raises(error, match=message):
            avg_pool2d.backward(y, size, True, bad)
    dilated = sized(x.shape, kernel_size=2, dilation=2)
    with pytest.raises(ValueError, match=r"dilation must be 1, got \(2, 2\)"):
        avg_pool2d.forward(x, dilated)
    expected = by_hand(x, y, {"kernel_size": 2}, (True, None))[0]
    assert_within(y, expected, abs(expected) + 4, 4)
    np.testing.assert_array_equal(avg_pool2d.forward(x, size), y)
