"""Flat buffers for the tests of the optimizers: parameters apart, NaN in the gaps between them."""

import numpy as np

from convolt.kernels.segments import ALIGNMENT_BYTES


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
