"""elementwise on CUDA: launches of elementwise.cu (any type) and functions.cu (floats)."""

import numpy as np

from ..cuda.launch import FLOAT_TYPES, Kernel
from ..cuda.strided import launch

NUMBER_TYPES = ("uint8", "int32", "int64", *FLOAT_TYPES)
TYPES = ("bool", *NUMBER_TYPES)


def _kernel(source, name, types):
    return Kernel(__file__, source, f"elementwise_{name}", block=256, STORAGE=types)


_ADD = _kernel("elementwise.cu", "add", TYPES)
_MULTIPLY = _kernel("elementwise.cu", "multiply", TYPES)
_MAXIMUM = _kernel("elementwise.cu", "maximum", TYPES)
_MINIMUM = _kernel("elementwise.cu", "minimum", TYPES)
_EQUAL = _kernel("elementwise.cu", "equal", TYPES)
_NOT_EQUAL = _kernel("elementwise.cu", "not_equal", TYPES)
_LESS = _kernel("elementwise.cu", "less", TYPES)
_LESS_EQUAL = _kernel("elementwise.cu", "less_equal", TYPES)
_WHERE = _kernel("elementwise.cu", "where", TYPES)
_SUBTRACT = _kernel("elementwise.cu", "subtract", NUMBER_TYPES)
_POWER = _kernel("elementwise.cu", "power", NUMBER_TYPES)
_NEGATIVE = _kernel("elementwise.cu", "negative", NUMBER_TYPES)
_ABSOLUTE = _kernel("elementwise.cu", "absolute", TYPES)
_SIGN = _kernel("elementwise.cu", "sign", TYPES)
_DIVIDE = _kernel("functions.cu", "divide", FLOAT_TYPES)
_EXP = _kernel("functions.cu", "exp", FLOAT_TYPES)
_LOG = _kernel("functions.cu", "log", FLOAT_TYPES)
_SQRT = _kernel("functions.cu", "sqrt", FLOAT_TYPES)


def _array(operand):
    """Return what a kernel takes for an operand: an array, or None for a number."""
    return None if isinstance(operand, np.generic) else operand


def _number(operand):
    return float(operand) if isinstance(operand, np.generic) else 0.0


def _array_of(a, b):
    return b if isinstance(a, np.generic) else a


def _binary(kernel, y, a, b, dtype):
    number = _number(a if isinstance(a, np.generic) else b)
    launch(kernel, y, _array(a), _array(b), options=(number,), STORAGE=dtype)


def add(a, b, y):
    _binary(_ADD, y, a, b, y.dtype)


def subtract(a, b, y):
    _binary(_SUBTRACT, y, a, b, y.dtype)


def multiply(a, b, y):
    _binary(_MULTIPLY, y, a, b, y.dtype)


def divide(a, b, y):
    _binary(_DIVIDE, y, a, b, y.dtype)


def power(a, b, y):
    _binary(_POWER, y, a, b, y.dtype)


def maximum(a, b, y):
    _binary(_MAXIMUM, y, a, b, y.dtype)


def minimum(a, b, y):
    _binary(_MINIMUM, y, a, b, y.dtype)


def equal(a, b, y):
    _binary(_EQUAL, y, a, b, _array_of(a, b).dtype)


def not_equal(a, b, y):
    _binary(_NOT_EQUAL, y, a, b, _array_of(a, b).dtype)


def less(a, b, y):
    _binary(_LESS, y, a, b, _array_of(a, b).dtype)


def less_equal(a, b, y):
    _binary(_LESS_EQUAL, y, a, b, _array_of(a, b).dtype)


def where(condition, a, b, y):
    numbers = _number(a), _number(b)
    launch(_WHERE, y, condition, _array(a), _array(b), options=numbers, STORAGE=y.dtype)


def negative(x, y):
    launch(_NEGATIVE, y, x, STORAGE=x.dtype)


def absolute(x, y):
    launch(_ABSOLUTE, y, x, STORAGE=x.dtype)


def sign(x, y):
    launch(_SIGN, y, x, STORAGE=x.dtype)


def exp(x, y):
    launch(_EXP, y, x, STORAGE=x.dtype)


def log(x, y):
    launch(_LOG, y, x, STORAGE=x.dtype)


def sqrt(x, y):
    launch(_SQRT, y, x, STORAGE=x.dtype)
