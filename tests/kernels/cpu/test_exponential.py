"""exp, exp - 1 and log against long double: the whole range, its ends, and NaN."""

import numpy as np
import pytest

from convolt.kernels.cpu.exponential import exp, exp_and_less_one, log
from convolt.kernels.cpu.jit import jit


@jit
def all_exp(t, small, same, less):
    for i in range(len(t)):
        small[i] = exp(t[i])
        same[i], less[i] = exp_and_less_one(t[i])


@jit
def all_log(x, y):
    for i in range(len(x)):
        y[i] = log(x[i])


def run(t):
    found = tuple(np.full_like(t, np.nan) for _ in range(3))
    all_exp(t, *found)
    return found


@pytest.mark.parametrize(("dtype", "least"), [(np.float32, -104), (np.float64, -746)])
def test_exp_and_exp_less_one_keep_their_digits(rng, dtype, least):
    t = np.concatenate([rng.uniform(least, 0, 20_000), -(10.0 ** rng.uniform(-30, 0, 20_000))])
    t = t.astype(dtype)
    small, same, less = run(t)
    unit, smallest = np.finfo(dtype).eps / 2, np.finfo(dtype).smallest_subnormal
    exact = np.exp(t.astype(np.longdouble))
    for got in (small, same):
        assert (abs(got.astype(np.longdouble) - exact) <= 3 * unit * exact + smallest).all()
    exact = np.expm1(t.astype(np.longdouble))
    assert (abs(less.astype(np.longdouble) - exact) <= 4 * unit * -exact).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zero_infinity_and_nan(dtype):
    small, same, less = run(np.array([0, -np.inf, -1000, np.nan] * 9, dtype))
    np.testing.assert_array_equal(small, np.array([1, 0, 0, np.nan] * 9, dtype))
    np.testing.assert_array_equal(same, small)
    np.testing.assert_array_equal(less, np.array([0, -1, -1, np.nan] * 9, dtype))


def test_a_little_above_zero():
    t = np.linspace(0, 1, 1000, endpoint=False, dtype=np.float32)
    np.testing.assert_allclose(run(t)[0], np.exp(t.astype(np.float64)), rtol=2e-7)


def test_log_keeps_its_digits(rng):
    x = np.concatenate(
        [10.0 ** rng.uniform(-300, 300, 20_000), 1 + 10.0 ** rng.uniform(-15, 1, 20_000)]
    )
    y = np.full_like(x, np.nan)
    all_log(x, y)
    exact = np.log(x.astype(np.longdouble))
    assert (abs(y - exact) <= 2 * np.finfo(np.float64).eps * abs(exact)).all()
    x = np.array([1, 2, 4, np.nan] * 9)
    y = np.empty_like(x)
    all_log(x, y)
    np.testing.assert_array_equal(y, np.log(x))
