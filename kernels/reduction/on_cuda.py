"""reduction on CUDA: launches of sum.cu and extremum.cu, once or, for few long rows, twice."""

import numpy as np

from ..cuda.launch import FLOAT_TYPES, Kernel
from .teams import BLOCK, ReductionSize

INTEGER_TYPES = ("bool", "uint8", "int32", "int64")


def _sum_kernel(entry, types, accumulator):
    constants = {"STORAGE": types, "ACCUMULATOR": accumulator}
    return Kernel(__file__, "sum.cu", entry, block=BLOCK, **constants)


def _extremum_kernel(entry):
    types = (*INTEGER_TYPES, *FLOAT_TYPES)
    return Kernel(__file__, "extremum.cu", entry, block=BLOCK, STORAGE=types)


_SUM = _sum_kernel("reduction_sum", FLOAT_TYPES, "float64")
_SUM_PARTS = _sum_kernel("reduction_sum_parts", FLOAT_TYPES, "float64")
_SUM_FINISH = _sum_kernel("reduction_sum_finish", FLOAT_TYPES, "float64")
_SUM_INTEGERS = _sum_kernel("reduction_sum_parts", INTEGER_TYPES, "int64")
_MAX = _extremum_kernel("reduction_max")
_MIN = _extremum_kernel("reduction_min")


def sum(rows, y):
    size = ReductionSize.of(rows)
    if rows.dtype.name not in FLOAT_TYPES:
        _sum_integers(rows, y, size)
    elif size.parts == 1:
        _SUM.launch(size.blocks, rows, y, size, STORAGE=rows.dtype)
    else:
        partial = np.empty_like(y, shape=(size.parts, size.kept), dtype=np.float64)
        _SUM_PARTS.launch(size.blocks, rows, partial, size, STORAGE=rows.dtype)
        size = ReductionSize.of(partial.T, cut=False)
        _SUM_FINISH.launch(size.blocks, partial, y, size, STORAGE=rows.dtype)


def _sum_integers(rows, y, size):
    if size.parts > 1:
        partial = np.empty_like(y, shape=(size.parts, size.kept))
        _SUM_INTEGERS.launch(size.blocks, rows, partial, size, STORAGE=rows.dtype)
        rows, size = partial.T, ReductionSize.of(partial.T, cut=False)
    _SUM_INTEGERS.launch(size.blocks, rows, y, size, STORAGE=rows.dtype)


def max(rows, y):
    _extrema(_MAX, rows, y, None)


def min(rows, y):
    _extrema(_MIN, rows, y, None)


def argmax(rows, y):
    _extrema(_MAX, rows, None, y)


def argmin(rows, y):
    _extrema(_MIN, rows, None, y)


def _extrema(kernel, rows, values, indices):
    """Fill in the values or the indices, whichever is not None."""
    size = ReductionSize.of(rows)
    origins = None
    if size.parts > 1:
        shape = (size.parts, size.kept)
        partial = np.empty_like(rows, shape=shape, order="C")
        if indices is not None:
            origins = np.empty_like(indices, shape=shape)
        kernel.launch(size.blocks, rows, None, partial, origins, size, STORAGE=rows.dtype)
        rows, size = partial.T, ReductionSize.of(partial.T, cut=False)
    kernel.launch(size.blocks, rows, origins, values, indices, size, STORAGE=rows.dtype)
