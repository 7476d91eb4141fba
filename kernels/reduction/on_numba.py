"""reduction in Numba: (kept, reduced) rows, of any strides, along the second axis.

Rows that lie along memory are folded in vector registers, run by run. Where the kept axis lies
along memory (the bias gradient of channels-last memory) a vector holds neighbouring columns, each
with its sum; where these are few, several rows are taken as one, with more sums. Threads take
parts, which depend on the shape alone and are added in order. No array is sliced in a loop: a
slice counts its owners, by atomic operations that all threads wait for.

NumPy's loops for extrema are vectorized too, but slow to start: they do the long rows.
"""

import numpy as np
from numba import prange

from .. import layout
from ..cpu.fold import RUN, largest, run_sum, smallest
from ..cpu.jit import jit, parallel_jit
from ..cpu.ufuncs import in_threads

PART = 65536  # elements that a part has at least
PARTS = 64  # at most
SUMS = 1024  # that a thread keeps side by side: they stay in L1
TASK = 4096  # elements of short rows that make it worth handing them to a thread
SHORT_ROW = 512


def sum(rows, y):
    kept, reduced = rows.shape
    parts = _least(_least(PARTS, rows.size // PART), reduced // RUN) or 1
    partial = np.empty((parts, kept), np.float64 if rows.dtype.kind == "f" else np.int64)
    if rows.dtype == np.bool_:
        rows = rows.view(np.uint8)
    if kept > 1 and rows.strides[0] == rows.itemsize:
        _sum_columns(_side_by_side(rows.T), partial)
    else:
        _sum_rows(layout.contiguous(rows).reshape(-1), reduced, partial)
    y[...] = partial[0] if parts == 1 else partial.sum(axis=0)


def max(rows, y):
    _extremum(np.max, _max_rows, rows, y)


def min(rows, y):
    _extremum(np.min, _min_rows, rows, y)


def argmax(rows, y):
    in_threads(_along_rows(np.argmax), rows, out=y[:, None])


def argmin(rows, y):
    in_threads(_along_rows(np.argmin), rows, out=y[:, None])


def _extremum(of_rows, of_short_rows, rows, y):
    if rows.shape[1] < SHORT_ROW and rows.flags.c_contiguous and rows.dtype != np.bool_:
        of_short_rows(rows.reshape(-1), rows.shape[1], y)
    else:
        in_threads(_along_rows(of_rows), rows, out=y[:, None])


def _along_rows(function):
    return lambda rows, out: function(rows, axis=1, keepdims=True, out=out)


def _side_by_side(columns):
    """Return (reduced, kept) columns with a power of 2 of their rows taken as one row."""
    reduced, kept = columns.shape
    together = _least(reduced & -reduced, 1 << (SUMS // kept or 1).bit_length() - 1)
    if together < 2 or not columns.flags.c_contiguous:
        return columns
    return columns.reshape(reduced // together, together * kept)


def _least(a, b):  # min is this module's reduction
    return a if a < b else b


@parallel_jit
def _sum_rows(flat, reduced, partial):
    parts, kept = partial.shape
    part_size = -(-reduced // parts)
    together = TASK // (part_size + 1) + 1
    tasks = -(-kept // together)
    for task in prange(parts * tasks):
        part, block = divmod(np.int64(task), tasks)
        first = part * part_size
        stop = np.minimum(first + part_size, reduced)
        for i in range(block * together, np.minimum(block * together + together, kept)):
            total = partial.dtype.type(0)
            for j in range(first, stop, RUN):
                total += run_sum(flat, i * reduced + j, np.minimum(RUN, stop - j))
            partial[part, i] = total


@parallel_jit
def _sum_columns(columns, partial):
    (parts, kept), (length, width) = partial.shape, columns.shape
    wide = partial.dtype.type
    part_size, tasks = -(-length // parts), -(-width // SUMS)
    one, eight = np.uint64(1), np.uint64(8)  # signed indices might count from the end
    for task in prange(parts * tasks):
        part, block = divmod(np.int64(task), tasks)
        left = block * SUMS
        right = np.minimum(left + SUMS, width)
        sums = np.zeros(right - left, wide)
        j = np.uint64(part * part_size)
        stop = np.uint64(np.minimum(part * part_size + part_size, length))
        while j + eight <= stop:  # sums are loaded and stored once in eight rows
            _add_rows(columns, j, np.uint64(left), sums)
            j += eight
        while j < stop:
            for i in range(np.uint64(len(sums))):
                sums[i] += wide(columns[j, np.uint64(left) + i])
            j += one
        here = partial[part, left:right]  # all of the part's, if rows were taken together
        for i in range(len(here)):  # an assignment of slices takes Numba a second to compile
            here[i] = sums[i]
        for i in range(len(here), len(sums)):
            here[i % kept] += sums[i]


@jit
def _add_rows(columns, j, left, sums):
    wide = sums.dtype.type
    b, c, d, e = j + np.uint64(1), j + np.uint64(2), j + np.uint64(3), j + np.uint64(4)
    f, g, h = j + np.uint64(5), j + np.uint64(6), j + np.uint64(7)
    for i in range(np.uint64(len(sums))):
        k = left + i
        low = (wide(columns[j, k]) + wide(columns[b, k])) + (
            wide(columns[c, k]) + wide(columns[d, k])
        )
        high = (wide(columns[e, k]) + wide(columns[f, k])) + (
            wide(columns[g, k]) + wide(columns[h, k])
        )
        sums[i] += low + high


@parallel_jit
def _max_rows(flat, reduced, y):
    together = TASK // (reduced + 1) + 1
    for task in prange(-(-len(y) // together)):
        first = np.int64(task) * together
        for i in range(first, np.minimum(first + together, len(y))):
            y[i] = largest(flat, i * reduced, reduced)


@parallel_jit
def _min_rows(flat, reduced, y):
    together = TASK // (reduced + 1) + 1
    for task in prange(-(-len(y) // together)):
        first = np.int64(task) * together
        for i in range(first, np.minimum(first + together, len(y))):
            y[i] = smallest(flat, i * reduced, reduced)
