"""elementwise on the CPU: NumPy's vectorized loops, and two of Numba's, on all threads."""

import numpy as np

from ..cpu.jit import elementwise
from ..cpu.threads import in_threads


def add(a, b, y):
    in_threads(np.add, a, b, out=y)


def subtract(a, b, y):
    in_threads(np.subtract, a, b, out=y)


def multiply(a, b, y):
    in_threads(np.multiply, a, b, out=y)


def divide(a, b, y):
    in_threads(np.divide, a, b, out=y)


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
