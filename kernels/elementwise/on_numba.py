"""elementwise on the CPU. NumPy's loops for these are vectorized already and bound by memory;
what NumPy would need several passes for is compiled here.
"""

import numpy as np

from ..jit import elementwise


def add(a, b, y):
    np.add(a, b, out=y)


def subtract(a, b, y):
    np.subtract(a, b, out=y)


def multiply(a, b, y):
    np.multiply(a, b, out=y)


def divide(a, b, y):
    np.divide(a, b, out=y)


def power(a, b, y):
    np.power(a, b, out=y)


def maximum(a, b, y):
    np.maximum(a, b, out=y)


def minimum(a, b, y):
    np.minimum(a, b, out=y)


def equal(a, b, y):
    np.equal(a, b, out=y)


def not_equal(a, b, y):
    np.not_equal(a, b, out=y)


def less(a, b, y):
    np.less(a, b, out=y)


def less_equal(a, b, y):
    np.less_equal(a, b, out=y)


def where(condition, a, b, y):
    _where(condition, a, b, out=y)


def negative(x, y):
    np.negative(x, out=y)


def absolute(x, y):
    np.absolute(x, out=y)


def sign(x, y):
    _sign(x, out=y)


def exp(x, y):
    np.exp(x, out=y)


def log(x, y):
    np.log(x, out=y)


def sqrt(x, y):
    np.sqrt(x, out=y)


@elementwise
def _where(condition, a, b):
    return a if condition else b


@elementwise
def _sign(x):
    zero = x - x if x == x else x * 0
    return zero + (x > 0) - (x < 0)
