"""max_pool2d: every backend against the definition by loops, ties, NaN, gradients, errors."""

import ml_dtypes
import numpy as np
import pytest
from pooling import DILATED, POOLINGS, on_image, windows
from threads import results_by_threads
from tolerance import assert_within

from convolt.kernels import max_pool2d
from convolt.kernels.backend import use_backend
from convolt.kernels.pooling_window import PoolSize

CASES = POOLINGS | DILATED
INF, NAN = np.inf, np.nan


def sized(x_shape, **window):
    return PoolSize.of("max_pool2d", x_shape, **window)


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def problem(request):
    x_shape, window = request.param
    return x_shape, window, sized(x_shape, **window)


def by_hand(x, window):
    """y, argmax and the winner's position h*W + w, by loops over the windows."""
    (height, width), cells_of = windows(x.shape, **window)
    shape = (x.shape[0], height, width, x.shape[3])
    y, argmax, positions = np.empty(shape, x.dtype), np.empty(shape, int), np.empty(shape, int)
    for (p, q), cells in cells_of.items():
        cells = on_image(x.shape, cells)
        for n, c in np.ndindex(x.shape[0], x.shape[3]):
            winner, best = cells[0], x[n, cells[0][1], cells[0][2], c]
            for cell in cells:
                value = x[n, cell[1], cell[2], c]
                if value > best or np.isnan(value):
                    winner, best = cell, value
            y[n, p, q, c], argmax[n, p, q, c] = best, winner[0]
            positions[n, p, q, c] = winner[1] * x.shape[2] + winner[2]
    return y, argmax, positions


def routed(grad_y, positions, x_shape):
    """grad_x, each grad_y added at the position of the winner."""
    n, h, w, c = x_shape
    grad_x = np.zeros((n, h * w, c))
    for i in np.ndindex(grad_y.shape):
        grad_x[i[0], positions[i], i[3]] += grad_y[i]
    return grad_x.reshape(x_shape)


def with_ties_and_specials(rng, shape, dtype):
    x = rng.integers(-2, 3, shape).astype(dtype)
    return np.where(rng.random(shape) < 0.1, rng.choice([NAN, INF, -INF], shape), x).astype(dtype)


def image(rows):
    return np.array(rows, np.float32)[np.newaxis, :, :, np.newaxis]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("data", ["normal", "ties_and_specials"])
def test_forward_equals_the_definition(backend, problem, rng, dtype, data, nan_results):
    x_shape, window, size = problem
    if data == "normal":
        x = rng.standard_normal(x_shape).astype(dtype)
    else:
        x = with_ties_and_specials(rng, x_shape, dtype)
    expected_y, expected_argmax, expected_positions = by_hand(x, window)
    with nan_results(max_pool2d):
        y, argmax = max_pool2d.forward(x, size)
        positions = max_pool2d.indices(argmax, size)
    assert y.dtype == dtype
    assert argmax.dtype == np.uint8
    assert positions.dtype == np.int64
    np.testing.assert_array_equal(y, expected_y)
    np.testing.assert_array_equal(argmax, expected_argmax)
    np.testing.assert_array_equal(positions, expected_positions)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_backward_routes_each_gradient_to_the_winner(backend, problem, rng, dtype, nan_results):
    x_shape, window, size = problem
    x = rng.standard_normal(x_shape).astype(dtype)
    positions = by_hand(x, window)[2]
    _, argmax = max_pool2d.forward(x, size)
    grad_y = rng.standard_normal(size.y_shape).astype(dtype)
    with nan_results(max_pool2d):
        grad_x = max_pool2d.backward(grad_y, argmax, size)
    assert grad_x.dtype == dtype
    wide = grad_y.astype(np.float64)
    expected, magnitude = routed(wide, positions, x_shape), routed(abs(wide), positions, x_shape)
    assert_within(grad_x, expected, magnitude, size.window_cells)


def run(x, grad_y, size):
    y, argmax = max_pool2d.forward(x, size)
    return y, argmax, max_pool2d.backward(grad_y, argmax, size), max_pool2d.indices(argmax, size)


def test_integers_give_numpys_bits(backend, problem, rng):
    x_shape, _, size = problem
    x = rng.integers(-4, 5, x_shape).astype(np.float32)
    grad_y = rng.integers(-4, 5, size.y_shape).astype(np.float32)
    got = run(x, grad_y, size)
    with use_backend("numpy"):
        expected = run(x, grad_y, size)
    for result, ref in zip(got, expected, strict=True):
        np.testing.assert_array_equal(result, ref)


def test_bfloat16_is_compared_exactly_and_summed_in_float32(backend, problem, rng, nan_results):
    x_shape, window, size = problem
    x = rng.standard_normal(x_shape).astype(ml_dtypes.bfloat16)
    grad_y = rng.standard_normal(size.y_shape).astype(ml_dtypes.bfloat16)
    if backend != "emulator":
        with pytest.raises(TypeError, match="max_pool2d: x has dtype bfloat16"):
            max_pool2d.forward(x, size)
        return
    expected_y, expected_argmax, positions = by_hand(x.astype(np.float32), window)
    with nan_results(max_pool2d):
        y, argmax, grad_x, _ = run(x, grad_y, size)
    assert y.dtype == grad_x.dtype == x.dtype
    np.testing.assert_array_equal(y.astype(np.float32), expected_y)
    np.testing.assert_array_equal(argmax, expected_argmax)
    wide = grad_y.astype(np.float64)
    expected, magnitude = routed(wide, positions, x_shape), routed(abs(wide), positions, x_shape)
    assert_within(grad_x, expected, magnitude, size.window_cells)


def test_bfloat16_nan_and_infinities():
    x = image([[-INF, -INF, 1, NAN], [-INF, -INF, INF, 2]]).astype(ml_dtypes.bfloat16)
    with use_backend("emulator"):
        y, argmax = max_pool2d.forward(x, sized(x.shape, kernel_size=2))
    np.testing.assert_array_equal(y.astype(np.float32).ravel(), [-INF, NAN])
    np.testing.assert_array_equal(argmax.ravel(), [0, 1])


def test_memory_at_any_address(backend, rng):
    """Kernels that move packs of 16 bytes get none here."""
    x = rng.standard_normal((2, 5, 4, 8)).astype(np.float32)
    size = sized(x.shape, kernel_size=3, stride=2, padding=1)
    grad_y = rng.integers(-4, 5, size.y_shape).astype(np.float32)
    shifted = np.empty(x.size + 1, np.float32)[1:].reshape(x.shape)
    shifted[...] = x
    for got, ref in zip(run(shifted, grad_y, size), run(x, grad_y, size), strict=True):
        np.testing.assert_array_equal(got, ref)


@pytest.mark.parametrize("channels", [1, 3, 16, 20, 31, 64, 65, 131])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_number_of_channels_on_any_number_of_threads(rng, dtype, channels):
    """On the CPU channels are cut into vectors, groups of vectors, and a rest."""
    size = sized((2, 5, 6, channels), kernel_size=3, stride=2, padding=1)
    x = with_ties_and_specials(rng, size.x_shape, dtype)
    grad_y = rng.integers(-4, 5, size.y_shape).astype(dtype)
    with use_backend("numpy"):
        expected = run(x, grad_y, size)
    with use_backend("numba"):
        results = results_by_threads(lambda: run(x, grad_y, size))
    for result in results:
        for got, ref in zip(result, expected, strict=True):
            np.testing.assert_array_equal(got, ref)


def test_the_gradient_of_a_4x4_image_goes_to_the_largest_of_each_quarter(backend):
    # The lectures' example (CS763) with numbers of our own.
    x = image([[1, 7, 2, 0], [3, 4, 5, 9], [8, 6, 1, 1], [2, 0, 3, 2]])
    size = sized(x.shape, kernel_size=2)
    y, argmax = max_pool2d.forward(x, size)
    np.testing.assert_array_equal(y, image([[7, 9], [8, 3]]))
    np.testing.assert_array_equal(argmax, image([[1, 3], [0, 2]]))
    grad_x = max_pool2d.backward(image([[10, 20], [30, 40]]), argmax, size)
    np.testing.assert_array_equal(
        grad_x, image([[0, 10, 0, 0], [0, 0, 0, 20], [30, 0, 0, 0], [0, 0, 40, 0]])
    )


def test_a_pixel_that_wins_overlapping_windows_gets_the_sum(backend):
    x = image([[0, 1, 0], [1, 9, 1], [0, 1, 0]])
    size = sized(x.shape, kernel_size=2, stride=1)
    y, argmax = max_pool2d.forward(x, size)
    np.testing.assert_array_equal(y, image([[9, 9], [9, 9]]))
    np.testing.assert_array_equal(argmax, image([[3, 2], [1, 0]]))
    grad_x = max_pool2d.backward(image([[1, 20], [300, 4000]]), argmax, size)
    np.testing.assert_array_equal(grad_x, image([[0, 0, 0], [0, 4321, 0], [0, 0, 0]]))


@pytest.mark.parametrize(
    ("cells", "winner"),
    [
        ([2, 2, 2, 2], 0),
        ([1, 2, 2, 1], 1),
        ([0.0, -0.0, 0.0, -0.0], 0),
        ([-0.0, 0.0, 0.0, -0.0], 0),
        ([-INF, -INF, -INF, -INF], 0),
        ([INF, INF, 1, 1], 0),
        ([NAN, 5, INF, 5], 0),
        ([5, NAN, 5, INF], 1),
        ([NAN, 1, NAN, INF], 2),
        ([NAN, NAN, NAN, NAN], 3),
    ],
)
def test_ties_go_to_the_first_and_nan_to_the_last(backend, cells, winner):
    x = image(np.reshape(cells, (2, 2)))
    y, argmax = max_pool2d.forward(x, sized(x.shape, kernel_size=2))
    assert argmax.item() == winner
    np.testing.assert_array_equal(y.item(), np.float32(cells[winner]))


def test_padding_never_wins(backend):
    x = np.full((2, 4, 5, 3), -INF, np.float32)
    size = sized(x.shape, kernel_size=3, stride=2, padding=1, ceil_mode=True)
    y, argmax = max_pool2d.forward(x, size)
    assert (y == -INF).all()
    grad_x = max_pool2d.backward(np.ones_like(y), argmax, size)
    assert grad_x.sum() == y.size  # no gradient is lost on the padding


@pytest.mark.parametrize(
    ("kernel", "dtype"), [(16, np.uint8), ((1, 257), np.int32), (17, np.int32)]
)
def test_argmax_is_wider_when_a_window_has_more_than_256_cells(backend, rng, kernel, dtype):
    window = {"kernel_size": kernel, "stride": 2}
    x = rng.standard_normal((2, 19, 260, 2)).astype(np.float32)
    x[:, -3:, -2:] += 10  # the winner of the last windows is far inside them
    size = sized(x.shape, **window)
    y, argmax = max_pool2d.forward(x, size)
    assert argmax.dtype == dtype
    expected = by_hand(x, window)
    assert expected[1].max() > 200
    for got, want in zip((y, argmax, max_pool2d.indices(argmax, size)), expected, strict=True):
        np.testing.assert_array_equal(got, want)
    grad_y = rng.integers(-4, 5, y.shape).astype(np.float32)
    grad_x = max_pool2d.backward(grad_y, argmax, size)
    np.testing.assert_array_equal(grad_x, routed(grad_y, expected[2], x.shape))


def test_sizes_know_shapes_and_costs(problem):
    x_shape, window, size = problem
    assert (size.p, size.q) == windows(x_shape, **window)[0]
    assert size.x_shape == x_shape
    n, h, w, c = x_shape
    assert size.flops == n * size.p * size.q * c * size.r * size.s
    assert size.bytes(4) == 4 * n * c * (h * w + size.p * size.q)
    assert size.bytes(8, 1) == 8 * n * c * h * w + 9 * n * c * size.p * size.q


BAD_SIZES = {
    "kernel_0": ({"kernel_size": 0}, ValueError, r"max_pool2d: kernel_size must be >= 1"),
    "kernel_half_0": ({"kernel_size": (2, 0)}, ValueError, "kernel_size must be >= 1"),
    "kernel_float": ({"kernel_size": 2.0}, TypeError, "kernel_size must be an int or a pair"),
    "kernel_bool": ({"kernel_size": True}, TypeError, "kernel_size must be an int or a pair"),
    "kernel_triple": ({"kernel_size": (2, 2, 2)}, ValueError, "kernel_size must be an int or a pa"),
    "stride_0": ({"kernel_size": 2, "stride": 0}, ValueError, "stride must be >= 1"),
    "stride_negative": ({"kernel_size": 2, "stride": -1}, ValueError, "stride must be >= 1"),
    "stride_beyond_int32": ({"kernel_size": 2, "stride": 2**70}, ValueError, "stride must be <="),
    "padding_negative": ({"kernel_size": 2, "padding": -1}, ValueError, "padding must be >= 0"),
    "padding_over_half": ({"kernel_size": 3, "padding": 2}, ValueError, "at most half of kernel"),
    "padding_over_half_dilated": (
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        ValueError,
        "at most half of kernel_size, got padding 2 for kernel_size 3",
    ),
    "dilation_0": ({"kernel_size": 2, "dilation": 0}, ValueError, "dilation must be >= 1"),
    "window_too_large": (
        {"kernel_size": (2, 8)},
        ValueError,
        "window is 8 pixels long but the image, 7 padded by 0 on each side, only 7",
    ),
    "window_too_large_dilated": (
        {"kernel_size": 3, "dilation": 3},
        ValueError,
        "window is 7 pixels long but the image, 6 padded",
    ),
    "window_too_large_ceil": (
        {"kernel_size": 9, "stride": 2, "ceil_mode": True},
        ValueError,
        "window is 9 pixels long",
    ),
    "window_beyond_int32": (
        {"kernel_size": 2**17, "padding": 2**16},
        ValueError,
        "kernel_size would have 17,179,869,184 elements",
    ),
    "padded_image_beyond_int32": (
        {"kernel_size": (2**31 - 1, 1), "padding": (2**30 - 1, 0)},
        ValueError,
        "padded_height would have 2,147,483,652 elements",
    ),
}


@pytest.mark.parametrize(("window", "error", "message"), BAD_SIZES.values(), ids=BAD_SIZES.keys())
def test_bad_windows_are_refused(window, error, message):
    with pytest.raises(error, match=message):
        sized((2, 6, 7, 3), **window)
    assert sized((2, 6, 7, 3), kernel_size=2).y_shape == (2, 3, 3, 3)


@pytest.mark.parametrize(
    ("x_shape", "window", "message"),
    [
        ((6, 7, 3), {"kernel_size": 2}, "must have 4 axes"),
        ((2, 0, 7, 3), {"kernel_size": 2}, r"\(2, 3, 0, 7\) is empty"),
        ((2, 6, 0, 3), {"kernel_size": 2}, "is empty"),
        ((2, 6, 7, 0), {"kernel_size": 2}, "is empty"),
        ((2**16, 2**8, 2**8, 1), {"kernel_size": 2}, "x would have 4,294,967,296 elements"),
        # Taps at -1 and 1 of an image of one pixel, where PyTorch points outside it.
        ((1, 1, 1, 1), {"kernel_size": 2, "padding": 1, "dilation": 2}, "no tap on the image"),
    ],
)
def test_bad_images_are_refused(x_shape, window, message):
    with pytest.raises(ValueError, match=message):
        sized(x_shape, **window)


def test_bad_arrays_are_refused_and_the_next_call_is_right(backend, rng):
    x = rng.standard_normal((2, 4, 6, 3))
    size = sized(x.shape, kernel_size=2)
    y, argmax = max_pool2d.forward(x, size)
    for bad, error, message in [
        (x.astype(np.float16), TypeError, "max_pool2d: x has dtype float16"),
        (x.astype(np.int64), TypeError, "x has dtype int64"),
        (x.tolist(), TypeError, "x is list, not an array"),
        (x[0], ValueError, r"x has shape \(4, 6, 3\), expected \(2, 4, 6, 3\)"),
        (x[:1], ValueError, "x has shape"),
        (np.asfortranarray(x), ValueError, "not C-contiguous"),
    ]:
        with pytest.raises(error, match=message):
            max_pool2d.forward(bad, size)
    for bad_grad, bad_argmax, error, message in [
        (y.astype(np.float16), argmax, TypeError, "grad_y has dtype float16"),
        (x, argmax, ValueError, "grad_y has shape"),
        (y, argmax.astype(np.int64), TypeError, "argmax has dtype int64, expected uint8"),
        (y, argmax.tolist(), TypeError, "argmax has dtype list"),
        (y, argmax[:1], ValueError, "argmax has shape"),
        (y, np.asfortranarray(argmax), ValueError, "argmax .* not C-contiguous"),
    ]:
        with pytest.raises(error, match=message):
            max_pool2d.backward(bad_grad, bad_argmax, size)
    with pytest.raises(TypeError, match="argmax has dtype int32"):
        max_pool2d.indices(argmax.astype(np.int32), size)
    np.testing.assert_array_equal(y, by_hand(x, {"kernel_size": 2})[0])
    np.testing.assert_array_equal(max_pool2d.forward(x, size)[0], y)
