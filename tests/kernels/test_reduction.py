"""reduction: against loops, over any axes and strides, long sums, errors."""

import itertools
import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threads import results_by_threads
from tolerance import assert_within

from convolt.kernels import reduction
from convolt.kernels.backend import use_backend
from convolt.kernels.reduction.teams import ReductionSize

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


LONG = [(1, 9001), (9001, 1), (9001, 3), (3, 9001), (2, 4097), (40, 700), (9, 33), (2, 9000)]


@pytest.mark.parametrize("shape", LONG)
@pytest.mark.parametrize("axis", [0, 1])
def test_long_rows(backend, rng, shape, axis, nan_results):
    x = rng.standard_normal(shape).astype(np.float32)
    with nan_results(reduction):
        got = reduction.sum(x, axis)
        assert_within(got, by_hand(math.fsum, x, (axis,)), by_hand(math.fsum, abs(x), (axis,)), 1)
        integers = rng.integers(-9, 10, shape).astype(np.float32)  # with many ties
        for name in ("sum", "max", "min", "argmax", "argmin"):
            expected = getattr(integers, name)(axis)
            np.testing.assert_array_equal(getattr(reduction, name)(integers, axis), expected)


# Rows side by side, in several parts, more columns than a thread sums at once, none of these.
WIDE = [(2048, 40), (70_016, 3), (19, 2100), (130_000, 1), (4099, 37), (640, 1030), (7, 66_000)]


@pytest.mark.parametrize("shape", WIDE, ids=str)
def test_every_way_to_cut_a_sum_is_exact_for_integers(rng, shape):
    values = rng.integers(-9, 10, (shape[0], 2 * shape[1])).astype(np.float32)
    with use_backend("numba"):
        for x in (values[:, ::2], np.ascontiguousarray(values[:, ::2]), values[:, shape[1] :]):
            for axes in ((0,), (1,), (0, 1)):
                np.testing.assert_array_equal(reduction.sum(x, axes), x.sum(axes))
            for name in ("max", "min", "argmax", "argmin"):
                for axis in (0, 1):
                    expected = getattr(x, name)(axis)
                    np.testing.assert_array_equal(getattr(reduction, name)(x, axis), expected)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float64"])
def test_every_type(backend, rng, dtype):
    x = rng.integers(0, 2 if dtype == "bool" else 200, (5, 9000)).astype(dtype)
    for axis in (0, 1):
        for name in ("sum", "max", "min", "argmax", "argmin"):
            expected = getattr(x, name)(axis)
            got = getattr(reduction, name)(x, axis)
            np.testing.assert_array_equal(got, expected)
            assert got.dtype == (
                np.int64 if name == "sum" and dtype != "float64" else expected.dtype
            )


@pytest.mark.parametrize("axis", [0, 1])
def test_bfloat16_sums_are_rounded_once(backend, rng, axis):
    x = rng.standard_normal((3, 9000)).astype(ml_dtypes.bfloat16)
    if backend != "emulator":
        with pytest.raises(TypeError, match=f"sum: x has dtype bfloat16, which backend {backend}"):
            reduction.sum(x, axis)
        return
    wide = x.astype(np.float64)
    got = reduction.sum(x, axis)
    np.testing.assert_array_equal(got, wide.sum(axis).astype(ml_dtypes.bfloat16))
    np.testing.assert_array_equal(reduction.max(x, axis), wide.max(axis))
    np.testing.assert_array_equal(reduction.argmin(x, axis), wide.argmin(axis))


def test_a_nan_anywhere_in_a_long_row_is_found_first(backend, rng):
    x = rng.standard_normal((2, 9001)).astype(np.float32)
    x[0, 8000] = x[0, 8500] = x[1, 3] = np.nan
    for name in ("argmax", "argmin"):
        np.testing.assert_array_equal(getattr(reduction, name)(x, 1), [8000, 3])
    for name in ("max", "min"):
        assert np.isnan(getattr(reduction, name)(x, 1)).all()
        assert np.isnan(getattr(reduction, name)(x)).all()


@given(
    kept=st.integers(0, 3000), reduced=st.integers(0, 300_000), columns=st.booleans()
)  # no memory: the rows are one element, repeated
def test_the_shares_of_threads_cover_every_row_once(kept, reduced, columns):
    strides = (4, 4 * kept) if columns else (4 * reduced, 4)
    rows = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (kept, reduced), strides)
    size = ReductionSize.of(rows)
    assert size.team & (size.team - 1) == 0
    assert 1 <= size.team <= 256
    assert size.parts * size.part >= reduced
    assert (size.parts - 1) * size.part < max(reduced, 1)  # no part is empty
    assert size.blocks * (256 // size.team) >= kept * size.parts
    assert size.parts == 1 or size.blocks <= 2048
    assert ReductionSize.of(rows, cut=False).parts == 1


def test_rows_are_shared_out_as_memory_lies():
    rows = np.zeros((64, 4096), np.float32)
    assert not ReductionSize.of(rows).along_kept
    assert ReductionSize.of(rows.reshape(4096, 64).T).along_kept
    assert ReductionSize.of(rows).team == 256
    assert ReductionSize.of(rows[:, :10]).team == 16
    assert ReductionSize.of(rows).packed
    assert ReductionSize.of(rows[:, :12]).packed
    assert ReductionSize.of(rows[:, :12]).team == 4
    for not_packed in (rows[:, :10], rows[:, 1:13], rows.reshape(-1)[:-4].reshape(10, -1)[:, :4]):
        assert not ReductionSize.of(not_packed).packed


def test_sums_do_not_depend_on_the_number_of_threads(rng):
    x = rng.standard_normal((20_000, 7)).astype(np.float32)
    with use_backend("numba"):
        results = results_by_threads(
            lambda: [reduction.sum(x, axes).tobytes() for axes in ((0,), (1,), (0, 1))]
        )
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
