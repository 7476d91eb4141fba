"""exp_parts against exp in long double: the whole range, its ends, and NaN."""

import numpy as np
import pytest

from convolt.kernels.cpu.exponential import CONSTANTS, exp_parts
from convolt.kernels.cpu.jit import jit


@jit
def parts(t, constants, a, b, e):
    for i in range(len(t)):
        a[i], b[i], e[i] = exp_parts(t[i], constants)


def run(t):
    found = tuple(np.full_like(t, np.nan) for _ in range(3))
    parts(t, CONSTANTS[t.dtype.name], *found)
    return found


@pytest.mark.parametrize(("dtype", "least"), [(np.float32, -104), (np.float64, -746)])
def test_exp_and_exp_less_one_keep_their_digits(rng, dtype, least):
    t = np.concatenate([rng.uniform(least, 0, 20_000), -(10.0 ** rng.uniform(-30, 0, 20_000))])
    t = t.astype(dtype)
    a, b, e = run(t)
    unit, smallest = np.finfo(dtype).eps / 2, np.finfo(dtype).smallest_subnormal
    exact = np.exp(t.astype(np.longdouble))
    error = abs(((b + b * e) * a).astype(np.longdouble) - exact)
    assert (error <= 3 * unit * exact + smallest).all()
    scale = a * b
    less = np.expm1(t.astype(np.longdouble))
    assert (abs((scale * e + (scale - 1)).astype(np.longdouble) - less) <= 4 * unit * -less).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zero_infinity_and_nan(dtype):
    a, b, e = run(np.array([0, -np.inf, -1000, np.nan] * 9, dtype))
    np.testing.assert_array_equal((b + b * e) * a, np.array([1, 0, 0, np.nan] * 9, dtype))
