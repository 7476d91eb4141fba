"""linear: definition against brute force, backends against it, adjoints, errors."""

import numpy as np
import pytest
from tolerance import assert_within

from convolt.kernels import linear
from convolt.kernels.backend import use_backend

SIZES = [(1, 1, 1), (3, 5, 7), (2, 1, 4), (13, 257, 11), (0, 3, 2), (3, 0, 2)]


def run(x, w, bias, grad_y):
    return linear.fprop(x, w, bias), linear.dgrad(grad_y, w), linear.wgrad(grad_y, x)


@pytest.mark.parametrize(("m", "c", "k"), SIZES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_the_equation(backend, rng, m, c, k, dtype, nan_results):
    shapes = ((m, c), (k, c), (k,), (m, k))
    x, w, bias, grad_y = (rng.standard_normal(s).astype(dtype) for s in shapes)
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


def test_integers_give_equal_bits_and_any_strides(rng):
    x, w, g = (rng.integers(-4, 5, s).astype(np.float32) for s in ((5, 33), (7, 33), (5, 7)))
    with use_backend("numpy"):
        expected = run(x, w, None, g)
    with use_backend("numba"):
        got = run(np.asfortranarray(x), w[:, ::-1][:, ::-1], None, np.asfortranarray(g))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.flags.c_contiguous


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
