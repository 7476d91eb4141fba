"""Runs folded in registers: any count, any place, every type; nothing behind the run is read."""

import numpy as np
import pytest

from convolt.kernels.cpu.fold import RUN, run_max, run_min, run_sum
from convolt.kernels.cpu.jit import jit


@jit
def fold(array, at, count):
    return run_sum(array, at, count), run_max(array, at, count), run_min(array, at, count)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int16, np.uint8])
def test_every_count_and_place(rng, dtype):
    array = rng.integers(-99, 100, 200).astype(dtype)  # of integers every order gives one sum
    for at in (0, 1, 33, 200 - RUN):
        for count in range(1, RUN + 1):
            run = array[at : at + count]
            total = int(run.sum(dtype=np.int64))
            assert fold(array, at, count) == (total, run.max(), run.min())


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
