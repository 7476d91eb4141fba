"""linear: definition against brute force, backends against it, adjoints, errors."""

import ml_dtypes
import numpy as np
import pytest
from tolerance import assert_within

from convolt.kernels import linear
from convolt.kernels.backend import use_backend
from convolt.kernels.linear import on_cuda

SIZES = [(1, 1, 1), (3, 5, 7), (2, 1, 4), (13, 257, 11), (0, 3, 2), (3, 0, 2)]
SIZES += [(6, 8, 36), (3, 40, 4), (300, 4, 8)]  # packs, wide tiles and a split sum on CUDA


def run(x, w, bias, grad_y):
    return linear.fprop(x, w, bias), linear.dgrad(grad_y, w), linear.wgrad(grad_y, x)


@pytest.mark.parametrize(("m", "c", "k"), SIZES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
def test_equals_the_equation(backend, rng, m, c, k, dtype, nan_results):
    shapes = ((m, c), (k, c), (k,), (m, k))
    x, w, bias, grad_y = (rng.standard_normal(s).astype(dtype) for s in shapes)
    if dtype == ml_dtypes.bfloat16 and backend in ("numpy", "numba"):
        with pytest.raises(TypeError, match="linear: x has dtype bfloat16"):
            run(x, w, bias, grad_y)
        return
    sums = [np.zeros((m, k)), np.zeros((m, c)), np.zeros((k, c))]
    sizes = [np.zeros((m, k)), np.zeros((m, c)), np.zeros((k, c))]
    wide = [a.astype(np.float64) for a in (x, w, bias, grad_y)]
    for (y, grad_x, grad_w), (a, b, d, g) in ((sums, wide), (sizes, list(map(abs, wide)))):
        for i, o in np.ndindex(m, k):
            y[i, o] = d[o]
            for j in range(c):
                y[i, o] += a[i, j] * b[o, j]
                grad_x[i, j] += g[i, o] * b[o, j]
                grad_w[o, j] += g[i, o] * a[i, j]
    with nan_results(linear):
        got = run(x, w, bias, grad_y)
    for g, e, s, length in zip(got, sums, sizes, (c + 1, k, m), strict=True):
        assert g.dtype == dtype
        assert_within(g, e, s, length)


def test_a_weight_gradient_is_written_into_the_array_given(backend, rng):
    x, grad_y = rng.standard_normal((5, 7)), rng.standard_normal((5, 3))
    ref = linear.wgrad(grad_y, x)
    place = np.full(32 + 21, np.nan)[32:].reshape(3, 7)  # as in a flat buffer
    assert linear.wgrad(grad_y, x, place) is place
    np.testing.assert_array_equal(place, ref)
    for wrong in (place.T, np.empty((7, 3)).T):
        with pytest.raises(ValueError, match="linear: grad_w"):
            linear.wgrad(grad_y, x, wrong)
    with pytest.raises(TypeError, match="linear: grad_w has dtype float32"):
        linear.wgrad(grad_y, x, place.astype(np.float32))


def spread(a):
    """Equal to ``a``; rows are 3 longer than it is wide, columns every second element."""
    memory = np.full((len(a), 2 * a.shape[1] + 3), np.nan, a.dtype)
    memory[:, 1:-2:2] = a
    return memory[:, 1:-2:2]


def flipped(a):
    return np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1]


def shifted(a):
    return np.append(a.dtype.type(0), a)[1:].reshape(a.shape)


@pytest.mark.parametrize("strided", [np.asfortranarray, spread, flipped, shifted])
@pytest.mark.parametrize(("m", "c", "k"), [(5, 33, 7), (12, 8, 16)])
def test_integers_give_equal_bits_at_any_strides(backend, rng, m, c, k, strided):
    shapes = ((m, c), (k, c), (m, k))
    x, w, g = (rng.integers(-4, 5, s).astype(np.float32) for s in shapes)
    bias = rng.integers(-4, 5, 2 * k).astype(np.float32)[::2]
    with use_backend("numpy"):
        expected = run(x, w, bias, g)
    got = run(strided(x), strided(w), bias, strided(g))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.flags.c_contiguous


def test_expanded_gradients_have_stride_0(backend, rng):
    x, w = (rng.integers(-4, 5, s).astype(np.float32) for s in ((5, 8), (4, 8)))
    g = np.broadcast_to(np.float32(2), (5, 4))
    np.testing.assert_array_equal(linear.dgrad(g, w), np.tile(2 * w.sum(0), (5, 1)))
    np.testing.assert_array_equal(linear.wgrad(g, x), np.tile(2 * x.sum(0), (4, 1)))


def test_launch_configurations():
    def configuration(m, c, k):
        return on_cuda.wgrad_configuration(m, c, k)

    assert configuration(4096, 64, 64) == ((64, 64), 1, 32)  # 256 chunks of 16 rows, 8 to a part
    assert configuration(4096, 1024, 1024) == ((64, 64), 256, 2)
    assert configuration(128, 512, 10) == ((16, 64), 8, 1)
    assert configuration(0, 3, 2) == ((16, 64), 1, 1)  # grad_w must be filled nevertheless
    assert configuration(3, 0, 2) == ((16, 64), 0, 1)


def test_bad_input_is_refused_and_the_next_call_is_right(backend):
    x, w = np.ones((2, 3)), np.ones((4, 3))
    with pytest.raises(ValueError, match="same C"):
        linear.fprop(x, np.ones((4, 2)), None)
    with pytest.raises(ValueError, match=r"\(M, C\)"):
        linear.fprop(np.ones(3), w, None)
    with pytest.raises(ValueError, match="bias has shape"):
        linear.fprop(x, w, np.ones(3))
    with pytest.raises(TypeError, match="dtype"):
        linear.fprop(x, w.astype(np.float32), None)
    with pytest.raises(ValueError, match="int32"):
        linear.LinearSize.of((2**20, 2**12), (1, 2**12))
    with pytest.raises(ValueError, match="grad_y"):
        linear.dgrad(np.ones((2, 3)), w)
    with pytest.raises(ValueError, match="grad_y"):
        linear.wgrad(np.ones((3, 4)), x)
    np.testing.assert_array_equal(linear.fprop(x, w, None), np.full((2, 4), 3.0))
