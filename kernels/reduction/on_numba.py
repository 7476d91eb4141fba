"""reduction in Numba: (kept, reduced) rows, of any strides, along the second axis.

A sum runs over parts of the reduced axis, in parallel; the parts depend on the shape alone and
are added in order. Where the kept axis is the contiguous one (the bias gradient of channels-last
memory) the inner loop runs over it.
"""

import numpy as np
from numba import prange

from ..cpu.jit import jit, parallel_jit
from .on_numpy import argmax, argmin, max, min

__all__ = ["argmax", "argmin", "max", "min", "sum"]

PART = 4096  # elements of the reduced axis that one partial sum covers


def sum(rows, y):
    wide = np.float64 if rows.dtype.kind == "f" else np.int64
    partial = np.zeros((-(-rows.shape[1] // PART), rows.shape[0]), wide)
    if abs(rows.strides[0]) < abs(rows.strides[1]):
        _sum_columns(rows.T, partial)
    else:
        _sum_rows(rows, partial)
    y[...] = partial.sum(axis=0)


@parallel_jit
def _sum_rows(rows, partial):
    parts, kept = partial.shape
    for task in prange(parts * kept):
        i, part = divmod(np.int64(task), parts)
        total = partial[part, i]
        for j in range(part * PART, _least(part * PART + PART, rows.shape[1])):
            total += rows[i, j]
        partial[part, i] = total


@parallel_jit
def _sum_columns(columns, partial):
    parts, kept = partial.shape
    for part in prange(parts):
        first = np.int64(part) * PART
        for j in range(first, _least(first + PART, columns.shape[0])):
            for i in range(kept):
                partial[part, i] += columns[j, i]


@jit
def _least(a, b):  # min is this module's reduction
    return a if a < b else b
