"""conv2d: definition against brute force, backends against the definition, adjoints, errors."""

import ml_dtypes
import numpy as np
import pytest
from tolerance import assert_within

from convolt.kernels import conv2d
from convolt.kernels.backend import use_backend
from convolt.kernels.conv2d import Conv2dSize, simt
from convolt.kernels.conv2d.algorithm import Problem

# name: (x (N,H,W,C), w (K,R,S,C/G), window)
CASES = {
    "3x3_same": ((2, 5, 6, 3), (4, 3, 3, 3), {"padding": 1}),
    "1x1": ((2, 5, 6, 3), (4, 1, 1, 3), {}),
    "one_of_everything": ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    "stride_over_the_edge": ((2, 7, 6, 3), (4, 3, 3, 3), {"stride": 2, "padding": 1}),
    "stride_larger_than_kernel": ((2, 7, 11, 3), (2, 2, 2, 3), {"stride": 3}),
    "stride_larger_than_image": ((1, 2, 3, 1), (2, 1, 1, 1), {"stride": 5}),
    "strides_differ": ((1, 9, 8, 2), (3, 3, 2, 2), {"stride": (2, 3), "padding": (1, 0)}),
    "filter_larger_than_image": ((1, 3, 3, 2), (2, 7, 7, 2), {"padding": 3}),
    "dilation": ((1, 9, 7, 3), (2, 3, 2, 3), {"dilation": (2, 3), "padding": 2}),
    "dilation_and_stride": ((1, 11, 10, 2), (3, 3, 3, 2), {"dilation": 2, "stride": 2}),
    "dilation_multiple_of_stride": ((1, 9, 9, 2), (2, 3, 3, 2), {"dilation": 2, "stride": 4}),
    "same_even_kernel": ((1, 5, 6, 2), (3, 4, 2, 2), {"padding": "same"}),
    "same_dilated": ((1, 5, 6, 2), (3, 3, 2, 2), {"padding": "same", "dilation": (1, 3)}),
    "valid": ((1, 5, 6, 2), (3, 3, 3, 2), {"padding": "valid"}),
    "wide_padding": ((1, 2, 2, 1), (2, 3, 3, 1), {"padding": (4, 3)}),
    "groups": ((2, 5, 4, 6), (4, 3, 3, 3), {"groups": 2, "padding": 1}),
    "depthwise": ((2, 5, 7, 5), (5, 3, 3, 1), {"groups": 5, "stride": 2, "padding": 1}),
    "depthwise_multiplier": ((1, 6, 5, 3), (6, 2, 3, 1), {"groups": 3, "dilation": 2}),
    "primes": ((3, 13, 11, 7), (5, 3, 5, 7), {"stride": (1, 2), "padding": (1, 2)}),
    "row": ((2, 1, 17, 3), (4, 1, 5, 3), {"padding": (0, 2)}),
    "empty_batch": ((0, 5, 6, 3), (4, 3, 3, 3), {}),
    "empty_batch_depthwise": ((0, 5, 6, 3), (3, 3, 3, 1), {"groups": 3}),
    # What the CUDA kernels treat apart: packs of channels, wide tiles, split sums, many taps.
    "first_layer": ((1, 9, 9, 3), (4, 7, 7, 3), {"stride": 2, "padding": 3}),
    "packs": ((1, 4, 5, 8), (24, 2, 2, 8), {}),
    "packs_stride_3": ((1, 7, 8, 8), (8, 3, 3, 8), {"stride": 3, "padding": 1}),
    "packs_groups": ((1, 5, 4, 16), (8, 3, 1, 8), {"groups": 2, "padding": (1, 0)}),
    "wide_tiles": ((1, 3, 3, 36), (36, 1, 2, 36), {}),
    "split_sum": ((1, 17, 17, 1), (2, 1, 1, 1), {}),
    "split_sum_depthwise": ((1, 17, 17, 2), (4, 1, 1, 1), {"groups": 2}),
    "depthwise_49_taps": ((1, 3, 4, 3), (3, 7, 7, 1), {"groups": 3, "padding": 3}),
    "depthwise_strides_differ": (
        *((1, 7, 6, 33), (33, 2, 3, 1)),
        {"groups": 33, "stride": (3, 2), "dilation": (2, 1), "padding": 1},
    ),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def problem(request, rng):
    x_shape, w_shape, window = request.param
    size = Conv2dSize.of(x_shape, w_shape, **window)
    return size, rng.standard_normal(x_shape), rng.standard_normal(w_shape)


def taps(size):
    """Yield (y index, k) and the (x index, w index) pairs that it sums, from the equation."""
    group_k, group_c = size.k // size.groups, size.c // size.groups
    for n, p, q, k in np.ndindex(size.y_shape):
        pairs = []
        for r, s, c in np.ndindex(size.r, size.s, group_c):
            h = p * size.stride_h + r * size.dilation_h - size.pad_top
            w = q * size.stride_w + s * size.dilation_w - size.pad_left
            if 0 <= h < size.h and 0 <= w < size.w:
                pairs.append(((n, h, w, k // group_k * group_c + c), (k, r, s, c)))
        yield (n, p, q, k), pairs


def by_hand(size, x, w, bias, grad_y):
    """y, grad_x and grad_w by loops over the equation and its transposes."""
    y, grad_x, grad_w = np.zeros(size.y_shape), np.zeros(size.x_shape), np.zeros(size.w_shape)
    for i, pairs in taps(size):
        y[i] = bias[i[3]]
        for j, tap in pairs:
            y[i] += x[j] * w[tap]
            grad_x[j] += grad_y[i] * w[tap]
            grad_w[tap] += grad_y[i] * x[j]
    return y, grad_x, grad_w


def run(size, x, w, bias, grad_y):
    return (
        conv2d.fprop(x, w, bias, size),
        conv2d.dgrad(grad_y, w, size),
        conv2d.wgrad(grad_y, x, size),
    )


def lengths(size):
    """Terms of one sum of y, grad_x, grad_w."""
    taps = size.r * size.s
    return taps * size.c // size.groups + 1, taps * size.k // size.groups, size.n * size.p * size.q


def test_the_definition_equals_the_equation(problem, rng):
    size, x, w = problem
    bias, grad_y = rng.standard_normal(size.k), rng.standard_normal(size.y_shape)
    expected = by_hand(size, x, w, bias, grad_y)
    magnitude = by_hand(size, abs(x), abs(w), abs(bias), abs(grad_y))
    with use_backend("numpy"):
        got = run(size, x, w, bias, grad_y)
    for g, e, m, length in zip(got, expected, magnitude, lengths(size), strict=True):
        assert_within(g, e, m, length)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_backends_equal_the_definition(backend, problem, rng, dtype, nan_results):
    size, x, w = problem
    arrays = [x, w, rng.standard_normal(size.k), rng.standard_normal(size.y_shape)]
    check_against_the_definition(size, [a.astype(dtype) for a in arrays], nan_results)


def test_bfloat16_is_summed_in_float32_and_rounded(backend, problem, rng, nan_results):
    size, x, w = problem
    arrays = [x, w, rng.standard_normal(size.k), rng.standard_normal(size.y_shape)]
    arrays = [a.astype(ml_dtypes.bfloat16) for a in arrays]
    if backend in ("numpy", "numba"):
        with pytest.raises(TypeError, match="conv2d: x has dtype bfloat16"):
            run(size, *arrays)
        return
    check_against_the_definition(size, arrays, nan_results)


def check_against_the_definition(size, arrays, nan_results):
    wide = [a.astype(np.float64) for a in arrays]
    with use_backend("numpy"):
        expected, magnitude = run(size, *wide), run(size, *map(abs, wide))
    with nan_results(conv2d):
        got = run(size, *arrays)
    for g, e, m, length in zip(got, expected, magnitude, lengths(size), strict=True):
        assert g.dtype == arrays[0].dtype
        assert_within(g, e, m, length)


def test_a_weight_gradient_is_written_into_the_array_given(backend, problem, rng):
    size, x, _ = problem
    grad_y = rng.standard_normal(size.y_shape)
    ref = conv2d.wgrad(grad_y, x, size)
    place = np.full(32 + ref.size, np.nan)[32:].reshape(ref.shape)  # as in a flat buffer
    assert conv2d.wgrad(grad_y, x, size, place) is place
    np.testing.assert_array_equal(place, ref)
    with pytest.raises(ValueError, match="conv2d: grad_w"):
        conv2d.wgrad(grad_y, x, size, place[:, :, :, None])
    with pytest.raises(TypeError, match="conv2d: grad_w has dtype float32"):
        conv2d.wgrad(grad_y, x, size, place.astype(np.float32))


def test_integers_give_equal_bits(backend, problem, rng):
    size, x, w = problem
    arrays = [rng.integers(-4, 5, a.shape).astype(np.float32) for a in (x, w)]
    arrays += [rng.integers(-4, 5, s).astype(np.float32) for s in (size.k, size.y_shape)]
    with use_backend("numpy"):
        expected = run(size, *arrays)
    got = run(size, *arrays)
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_array_equal(g, e)


def test_arrays_may_begin_anywhere(backend, rng):
    """Contiguous, but not on a multiple of 16 bytes: a kernel that reads packs must notice."""
    size = Conv2dSize.of((1, 4, 5, 8), (24, 2, 2, 8))
    shapes = size.x_shape, size.w_shape, (size.k,), size.y_shape
    arrays = [rng.integers(-4, 5, s).astype(np.float32) for s in shapes]
    shifted = [np.append(np.float32(0), a)[1:].reshape(a.shape) for a in arrays]
    assert any(a.ctypes.data % 16 for a in shifted)
    with use_backend("numpy"):
        expected = run(size, *arrays)
    for g, e in zip(run(size, *shifted), expected, strict=True):
        np.testing.assert_array_equal(g, e)


@pytest.mark.parametrize("backend", ["emulator", "emulator-check"], indirect=True)
def test_coordinates_beyond_int32_are_outside_the_image(backend):
    window = {"stride": (2**30, 1), "padding": (2**30, 0)}
    size = Conv2dSize.of((1, 1, 1, 1), (1, 1, 1, 1), **window)
    x, w = np.full(size.x_shape, 2.0), np.full(size.w_shape, 3.0)
    grad_y = np.array([5.0, 7.0, 11.0]).reshape(size.y_shape)
    y, grad_x, grad_w = run(size, x, w, None, grad_y)
    assert y.ravel().tolist() == [0, 6, 0]
    assert (grad_x.item(), grad_w.item()) == (21, 14)


def test_launch_configurations():
    def configuration(*problem, **window):
        size = Conv2dSize.of(*problem, **window)
        verbs = ("fprop", "dgrad", "wgrad")
        found = []
        for verb in verbs:
            (algorithm,) = simt.algorithms(Problem(verb, size, "float32"))
            found.append(getattr(simt, f"{verb}_configuration")(algorithm, size))
        return [(kernel.entry.removeprefix("conv2d_"), kernel.block, g) for kernel, g in found]

    # 8 * 28 * 28 = 98 * 64 pixels; 9 * 64 taps are 9 tiles, and 512 / 9 blocks each have a part.
    assert configuration((8, 28, 28, 64), (64, 3, 3, 64), padding=1) == [
        ("fprop_tiled", 256, 98),
        ("dgrad_tiled", 256, 98),
        ("wgrad_tiled", 256, (9, 49)),
    ]
    # Few filters and channels: tiles with a side of 16. One phase of the gradient has 3 * 3 pixels.
    assert configuration((1, 6, 6, 20), (8, 3, 3, 10), stride=2, groups=2) == [
        ("fprop_tiled", 64, 2),
        ("dgrad_tiled", 64, 2 * 4),
        ("wgrad_tiled", 64, (2 * 2, 1)),
    ]
    # A stride beyond the image has a phase for each pixel, not for each step of the stride.
    assert configuration((1, 2, 3, 1), (2, 1, 1, 1), stride=5)[1] == ("dgrad_tiled", 64, 6)
    assert configuration((4, 14, 14, 40), (40, 3, 3, 1), groups=40, padding=1) == [
        ("fprop_depthwise", 256, 25 * 2),
        ("dgrad_depthwise", 256, 25 * 2),
        ("wgrad_depthwise", 256, (2 * 3, 6)),
    ]
    # An empty batch launches nothing but the gradient of w, which must be filled.
    empty = configuration((0, 5, 5, 3), (4, 3, 3, 3))
    assert [grid for _, _, grid in empty] == [0, 0, (1, 1)]


def test_dgrad_and_wgrad_are_adjoints_of_fprop(backend, problem, rng):
    size, x, w = problem
    grad_y = rng.standard_normal(size.y_shape)
    y, grad_x, grad_w = run(size, x, w, None, grad_y)
    scale = np.vdot(abs(grad_y), abs(y)) + 1e-300
    assert abs(np.vdot(grad_x, x) - np.vdot(grad_y, y)) <= 1e-12 * scale
    assert abs(np.vdot(grad_w, w) - np.vdot(grad_y, y)) <= 1e-12 * scale


def test_counts():
    size = Conv2dSize.of((2, 32, 32, 3), (10, 5, 5, 3), padding=2)
    assert size.y_shape == (2, 32, 32, 10)
    assert size.multiply_adds == 2 * 32 * 32 * 10 * 5 * 5 * 3
    assert size.flops == 2 * size.multiply_adds
    assert size.bytes(4) == 4 * (2 * 32 * 32 * 3 + 10 * 5 * 5 * 3 + 2 * 32 * 32 * 10)
    assert Conv2dSize.of((1, 8, 8, 4), (6, 3, 3, 2), groups=2).multiply_adds == 36 * 6 * 9 * 2


X, W = (1, 5, 5, 4), (4, 3, 3, 4)
BAD = {
    "stride_0": (X, W, {"stride": 0}, ValueError, "stride must be >= 1"),
    "stride_float": (X, W, {"stride": 1.5}, TypeError, "stride must be an int"),
    "stride_bool": (X, W, {"stride": True}, TypeError, "stride must be an int"),
    "stride_triple": (X, W, {"stride": (1, 2, 3)}, ValueError, "pair"),
    "negative_padding": (X, W, {"padding": -1}, ValueError, "padding must be >= 0"),
    "padding_word": (X, W, {"padding": "full"}, ValueError, "'same', 'valid'"),
    "same_with_stride": (X, W, {"padding": "same", "stride": 2}, ValueError, "stride 1"),
    "dilation_0": (X, W, {"dilation": 0}, ValueError, "dilation must be >= 1"),
    "groups_0": (X, W, {"groups": 0}, ValueError, "groups must be >= 1"),
    "groups_float": (X, W, {"groups": 2.0}, TypeError, "groups must be an int"),
    "groups_do_not_divide": (X, (4, 3, 3, 1), {"groups": 3}, ValueError, "divisible by groups=3"),
    "channels": (
        (8, 32, 32, 3),
        (16, 3, 3, 4),
        {},
        ValueError,
        r"conv2d: x has 3 channels \(8, 3, 32, 32\) but weight expects 4 \(16, 4, 3, 3\); change",
    ),
    "window_too_high": ((1, 2, 5, 4), W, {}, ValueError, "window is 3 pixels high"),
    "window_too_wide": (X, W, {"dilation": (1, 3)}, ValueError, "window is 7 pixels wide"),
    "empty_image": ((1, 0, 5, 4), W, {}, ValueError, "pixels high"),
    "empty_filter": (X, (4, 0, 3, 4), {}, ValueError, "empty axis"),
    "rank": ((5, 5, 4), W, {}, ValueError, "4 axes"),
    "too_many_elements": ((4096, 1024, 1024, 4), W, {}, ValueError, "int32"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_bad_sizes_are_refused(case):
    x_shape, w_shape, window, error, message = case
    with pytest.raises(error, match=message):
        Conv2dSize.of(x_shape, w_shape, **window)


def test_bad_arrays_are_refused_and_the_next_call_is_right(backend):
    size = Conv2dSize.of(X, W)
    x, w = np.ones(X), np.ones(W)
    with pytest.raises(TypeError, match="weight has dtype float32 but x has float64"):
        conv2d.fprop(x, w.astype(np.float32), None, size)
    with pytest.raises(TypeError, match="float16; float32 or float64 is needed"):
        conv2d.fprop(x.astype(np.float16), w.astype(np.float16), None, size)
    with pytest.raises(TypeError, match="int64"):
        conv2d.fprop(x.astype(np.int64), w, None, size)
    with pytest.raises(ValueError, match=r"bias has shape \(3,\)"):
        conv2d.fprop(x, w, np.ones(3), size)
    with pytest.raises(ValueError, match="grad_y has shape"):
        conv2d.dgrad(np.ones((1, 5, 5, 4)), w, size)
    with pytest.raises(ValueError, match="not C-contiguous"):
        conv2d.fprop(np.asfortranarray(x), w, None, size)
    np.testing.assert_array_equal(conv2d.fprop(x, w, None, size), np.full((1, 3, 3, 4), 36.0))
