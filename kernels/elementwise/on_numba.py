"""elementwise on the CPU: loops of Numba for the arithmetic of large arrays, NumPy's for the rest.

NumPy's loops are vectorized, and run in threads too. But two threads of Python begin and end
apart: the sum of two activations takes a quarter longer with them.
"""

import numpy as np
from numba import prange

from ..arrays import FLOATS
from ..cpu.flat import flat, lie_alike
from ..cpu.jit import elementwise, jit, parallel_jit
from ..cpu.lanes import LINE_BYTES
from ..cpu.ufuncs import in_threads

LARGE_BYTES = 1 << 20  # of a result: smaller ones NumPy has made before threads have begun
PART = 1 << 14  # elements, of one turn of the parallel loop
ADD, ACCUMULATE, SUBTRACT, MULTIPLY, DIVIDE = range(5)


def add(a, b, y):
    _arithmetic(ADD, np.add, a, b, y)


def subtract(a, b, y):
    _arithmetic(SUBTRACT, np.subtract, a, b, y)


def multiply(a, b, y):
    _arithmetic(MULTIPLY, np.multiply, a, b, y)


def divide(a, b, y):
    _arithmetic(DIVIDE, np.divide, a, b, y)


def power(a, b, y):
    in_threads(np.power, a, b, out=y)


def maximum(a, b, y):
    in_threads(np.maximum, a, b, out=y)


def minimum(a, b, y):
    in_threads(np.minimum, a, b, out=y)


def equal(a, b, y):
    in_threads(np.equal, a, b, out=y)


def not_equal(a, b, y):
    in_threads(np.not_equal, a, b, out=y)


def less(a, b, y):
    in_threads(np.less, a, b, out=y)


def less_equal(a, b, y):
    in_threads(np.less_equal, a, b, out=y)


def where(condition, a, b, y):
    in_threads(_where, condition, a, b, out=y)


def negative(x, y):
    in_threads(np.negative, x, out=y)


def absolute(x, y):
    in_threads(np.absolute, x, out=y)


def sign(x, y):
    in_threads(_sign, x, out=y)


def exp(x, y):
    in_threads(np.exp, x, out=y)


def log(x, y):
    in_threads(np.log, x, out=y)


def sqrt(x, y):
    in_threads(np.sqrt, x, out=y)


@elementwise
def _where(condition, a, b):
    return a if condition else b


@elementwise
def _sign(x):
    if x > 0:
        return type(x)(1)
    return type(x)(-1 if x < 0 else 0)  # 0 for NaN


def _arithmetic(kind, ufunc, a, b, y):
    large = y.nbytes >= LARGE_BYTES and a.dtype == b.dtype == y.dtype and y.dtype in FLOATS
    if not (large and lie_alike(y, a, b)):
        in_threads(ufunc, a, b, out=y)
    elif kind == ADD and y is a:  # a loop with a read and written in one place is vectorized
        _run(ACCUMULATE, *flat(y, b, b))
    else:
        _run(kind, *flat(y, a, b))


@parallel_jit
def _run(kind, y, a, b):
    size, step = np.uint64(len(y)), np.uint64(PART)
    # Parts begin with lines of the cache: vectors that lie across two lines take longer.
    before = np.uint64(y.ctypes.data % LINE_BYTES // y.itemsize)
    for part in prange((before + size + step - np.uint64(1)) // step):
        first = max(np.uint64(part) * step, before) - before
        _compute(kind, y, a, b, first, min(np.uint64(part + 1) * step - before, size))


@jit
def _compute(kind, y, a, b, first, end):
    if kind == ADD:
        for i in range(first, end):
            y[i] = a[i] + b[i]
    elif kind == ACCUMULATE:
        for i in range(first, end):
            y[i] += b[i]
    elif kind == SUBTRACT:
        for i in range(first, end):
            y[i] = a[i] - b[i]
    elif kind == MULTIPLY:
        for i in range(first, end):
            y[i] = a[i] * b[i]
    else:
        for i in range(first, end):
            y[i] = a[i] / b[i]
