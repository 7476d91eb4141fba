"""Rows folded in registers: any count, any place, every type; nothing behind them counts."""

import numpy as np
import pytest

from convolt.kernels.cpu.fold import RUN, largest, run_sum, smallest
from convolt.kernels.cpu.jit import jit


@jit
def fold(array, at, count):
    return run_sum(array, at, count), largest(array, at, count), smallest(array, at, count)


@jit
def extrema(array, at, count):
    return largest(array, at, count), smallest(array, at, count)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int16, np.uint8])
def test_every_count_and_place(rng, dtype):
    array = rng.integers(-99, 100, 200).astype(dtype)  # of integers every order gives one sum
    for at in (0, 1, 33, 200 - RUN):
        for count in range(1, RUN + 1):
            run = array[at : at + count]
            total = int(run.sum(dtype=np.int64))
            assert fold(array, at, count) == (total, run.max(), run.min())


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int16, np.uint8])
@pytest.mark.parametrize("count", [2 * RUN, 2 * RUN + 1, 3 * RUN - 1, 1000])
def test_extrema_of_more_than_a_run(rng, dtype, count):
    array = rng.integers(0, 100, count + 2).astype(dtype)
    array[0], array[-1] = 101, 0
    for place in (0, count // 2, count - 1):
        run = array.copy()
        run[1 + place] = 100
        assert extrema(run, 1, count) == (100, run[1:-1].min())
        assert extrema(100 - run, 1, count) == ((100 - run)[1:-1].max(), 0)


def test_a_sum_of_floats_is_wide(rng):
    array = rng.standard_normal(RUN).astype(np.float32)
    for count in (1, 17, RUN):
        exact = array[:count].astype(np.float64).sum()
        assert abs(fold(array, 0, count)[0] - exact) <= 1e-14 * abs(array).sum()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_wins_wherever_it_stands(rng, dtype):
    for place in range(RUN):
        array = rng.standard_normal(RUN).astype(dtype)
        array[place] = np.nan
        assert np.isnan(fold(array, 0, RUN)).all()
        assert np.isnan(fold(array, 0, place + 1)).all()
        if place:
            assert not np.isnan(fold(array, 0, place)).any()


@pytest.mark.parametrize("count", [1000, 1024])
def test_nan_wins_in_a_long_row(rng, count):
    for place in range(count):
        array = rng.standard_normal(count)
        array[place] = np.nan
        assert np.isnan(extrema(array, 0, count)).all()
        if place:
            assert extrema(array, 0, place) == (array[:place].max(), array[:place].min())
