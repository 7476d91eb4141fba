"""Flat buffers for the tests of the optimizers: parameters apart, NaN in the gaps between them.

What the tests share takes ``step``, a contract's, and its arguments, ``start``: param, grad, the
buffers of state, segments, hyper.
"""

import numpy as np
from threads import results_by_threads

from convolt.kernels.backend import use_backend
from convolt.kernels.segments import ACTIVE, ALIGNMENT_BYTES, STEP


def table(sizes, groups, active, steps, dtype):
    """Return (segments, length of the buffers), with a gap after every parameter."""
    alignment = ALIGNMENT_BYTES // np.dtype(dtype).itemsize
    rows, start = [], alignment
    for size, *rest in zip(sizes, groups, active, steps, strict=True):
        rows.append([start, size, *rest])
        start += (size // alignment + 1) * alignment
    return np.array(rows, np.int64).reshape(-1, 5), start


def buffer(segments, length, dtype, draw):
    """Return a buffer of NaN whose segments hold ``draw(size)``."""
    filled = np.full(length, np.nan, dtype)
    for start, size in segments[:, :2]:
        filled[start : start + size] = draw(size)
    return filled


def in_gap(segments, length):
    """Return, for each element, whether it lies in no segment."""
    gap = np.ones(length, bool)
    for start, size in segments[:, :2]:
        gap[start : start + size] = False
    return gap


def after_steps(step, start, count=1):
    """Return copies of ``start`` after ``count`` steps."""
    arrays = [array.copy() for array in start]
    for _ in range(count):
        step(*arrays)
    return arrays


def assert_only_active_segments_change(step, start):
    """Assert that a step changes the active parameters, their state and their counts alone."""
    before, after = start, after_steps(step, start)
    segments, rows = after[-2], before[-2]
    still = in_gap(rows, before[0].size)
    for array in (after[0], *after[2:-2]):
        assert np.isnan(array[still]).all()
    for begin, size in rows[rows[:, ACTIVE] == 0, :2]:
        still[begin : begin + size] = True
    for now, then in zip((after[0], *after[2:-2]), (before[0], *before[2:-2]), strict=True):
        assert now[still].tobytes() == then[still].tobytes()
        assert not np.isnan(now[~still]).any()
    assert after[1].tobytes() == before[1].tobytes()
    assert np.array_equal(segments[:, STEP] - rows[:, STEP], segments[:, ACTIVE])
    assert np.array_equal(segments[:, :STEP], rows[:, :STEP])


def assert_any_number_of_threads_gives_the_same_bytes(step, start):
    with use_backend("numba"):
        first, *others = results_by_threads(
            lambda: [array.tobytes() for array in after_steps(step, start)]
        )
    assert all(other == first for other in others)
