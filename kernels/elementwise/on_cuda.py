"""elementwise on CUDA: launches of elementwise.cu (any type) and functions.cu (floats)."""

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


def add(a, b, y):
    launch(_ADD, y, a, b, STORAGE=a.dtype)


def subtract(a, b, y):
    launch(_SUBTRACT, y, a, b, STORAGE=a.dtype)


def multiply(a, b, y):
    launch(_MULTIPLY, y, a, b, STORAGE=a.dtype)


def divide(a, b, y):
    launch(_DIVIDE, y, a, b, STORAGE=a.dtype)


def power(a, b, y):
    launch(_POWER, y, a, b, STORAGE=a.dtype)


def maximum(a, b, y):
    launch(_MAXIMUM, y, a, b, STORAGE=a.dtype)


def minimum(a, b, y):
    launch(_MINIMUM, y, a, b, STORAGE=a.dtype)


def equal(a, b, y):
    launch(_EQUAL, y, a, b, STORAGE=a.dtype)


def not_equal(a, b, y):
    launch(_NOT_EQUAL, y, a, b, STORAGE=a.dtype)


def less(a, b, y):
    launch(_LESS, y, a, b, STORAGE=a.dtype)


def less_equal(a, b, y):
    launch(_LESS_EQUAL, y, a, b, STORAGE=a.dtype)


def where(condition, a, b, y):
    launch(_WHERE, y, condition, a, b, STORAGE=a.dtype)


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
