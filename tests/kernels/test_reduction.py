"""reduction: against loops, over any axes and strides, long sums, errors."""

import itertools
import math

import numba
import numpy as np
import pytest
from tolerance import assert_within

from convolt.kernels import reduction
from convolt.kernels.backend import use_backend

SHAPE = (3, 1, 5, 4)
AXES = [axes for n in range(1, 5) for axes in itertools.combinations(range(4), n)]


def by_hand(function, x, axes):
    """Collect the elements of each kept cell, then apply a Python function to the list."""
    kept = [i for i in range(x.ndim) if i not in axes]
    cells = {}
    for index in np.ndindex(x.shape):
        cells.setdefault(tuple(index[i] for i in kept), []).append(float(x[index]))
    y = np.empty([x.shape[i] for i in kept])
    for index, values in cells.items():
        y[index] = function(values)
    return y


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_and_extrema_equal_loops(backend, rng, axes, dtype, nan_results):
    x = rng.standard_normal(SHAPE).astype(dtype).transpose(2, 0, 3, 1)
    with nan_results(reduction):
        got = {n: getattr(reduction, n)(x, axes) for n in ("sum", "max", "min")}
    length = math.prod(x.shape[i] for i in axes)
    magnitude = by_hand(math.fsum, abs(x), axes)
    assert_within(got["sum"], by_hand(math.fsum, x, axes), magnitude, length)
    np.testing.assert_array_equal(got["max"], by_hand(max, x, axes))
    np.testing.assert_array_equal(got["min"], by_hand(min, x, axes))
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    assert reduction.sum(x, axes, keepdims=True).shape == kept


@pytest.mark.parametrize("shape", [(1, 9001), (9001, 1), (9001, 3), (3, 9001), (2, 4097)])
@pytest.mark.parametrize("axis", [0, 1])
def test_long_sums(rng, shape, axis):
    x = rng.standard_normal(shape).astype(np.float32)
    with use_backend("numba"):
        got = reduction.sum(x, axis)
        assert_within(got, by_hand(math.fsum, x, (axis,)), by_hand(math.fsum, abs(x), (axis,)), 1)
        integers = rng.integers(-9, 10, shape).astype(np.float32)
        np.testing.assert_array_equal(reduction.sum(integers, axis), integers.sum(axis))


def test_sums_do_not_depend_on_the_number_of_threads(rng):
    x = rng.standard_normal((20_000, 7)).astype(np.float32)
    with use_backend("numba"):
        results = []
        for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1):
            numba.set_num_threads(threads)
            results.append([reduction.sum(x, axes).tobytes() for axes in ((0,), (1,), (0, 1))])
        numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    assert all(result == results[0] for result in results)


def test_argmax_takes_the_first_of_ties_and_counts_nan_as_largest(backend):
    x = np.array([[1.0, 3.0, 3.0], [np.nan, 5.0, np.nan]])
    np.testing.assert_array_equal(reduction.argmax(x, 1), [1, 0])
    np.testing.assert_array_equal(reduction.argmax(x, 0), [1, 1, 1])
    assert reduction.argmax(x) == 3
    assert reduction.argmax(x, keepdims=True).shape == (1, 1)
    assert reduction.argmax(np.array(5.0)) == 0
    assert np.isnan(reduction.max(x))


def test_integers_bools_and_scalars(backend):
    assert reduction.sum(np.array([True, True, False])).dtype == np.int64
    assert reduction.sum(np.full(300, 255, np.uint8)) == 300 * 255
    assert reduction.sum(np.array(3.0)) == 3.0
    assert reduction.sum(np.array(3.0), -1) == 3.0
    assert reduction.max(np.array([3, 7], np.uint8)).dtype == np.uint8


def test_empty_arrays(backend):
    np.testing.assert_array_equal(reduction.sum(np.ones((0, 3)), 0), np.zeros(3))
    assert reduction.sum(np.ones((0, 3)), 1).shape == (0,)
    assert reduction.max(np.ones((0, 3)), 1).shape == (0,)
    with pytest.raises(ValueError, match="nothing to choose from"):
        reduction.max(np.ones((0, 3)), 0)
    with pytest.raises(ValueError, match="nothing to choose from"):
        reduction.argmax(np.ones((0,)))


def test_bad_axes_are_refused_and_the_next_call_is_right(backend):
    x = np.ones((2, 3))
    with pytest.raises(IndexError, match="axis 2 is out of range"):
        reduction.sum(x, 2)
    with pytest.raises(IndexError, match="axis 1"):
        reduction.sum(np.array(1.0), 1)
    with pytest.raises(ValueError, match="named twice"):
        reduction.sum(x, (0, -2))
    np.testing.assert_array_equal(reduction.sum(x, -1), [3.0, 3.0])
    assert reduction.sum(x, ()) == 6.0  # as PyTorch
