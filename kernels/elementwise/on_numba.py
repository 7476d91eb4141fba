"""elementwise on the CPU: NumPy's own loops are vectorized and bound by memory, but for two."""

import numpy as np

from .on_numpy import (
    absolute,
    add,
    divide,
    equal,
    exp,
    less,
    less_equal,
    log,
    maximum,
    minimum,
    multiply,
    negative,
    not_equal,
    power,
    sqrt,
    subtract,
)

__all__ = [
    "absolute",
    "add",
    "divide",
    "equal",
    "exp",
    "less",
    "less_equal",
    "log",
    "maximum",
    "minimum",
    "multiply",
    "negative",
    "not_equal",
    "power",
    "sign",
    "sqrt",
    "subtract",
    "where",
]


def where(condition, a, b, y):
    np.copyto(y, b)
    np.copyto(y, a, where=condition)


def sign(x, y):
    np.greater(x, 0, out=y, casting="unsafe")
    if x.dtype.kind in "if":  # others are not negative
        y -= x < 0
