"""Arithmetic and comparisons, element by element, with broadcasting.

    y[i] = op(a[i], b[i])

Operands are arrays of any strides whose shapes broadcast, or Python numbers; one of them is an
array. The result has the memory order of the first operand of full shape. dtypes promote as in
PyTorch: the widest dtype of the highest category (bool < int < float), where Python numbers and
0-d arrays count only if they raise the category; a Python float then means float32.
Implementations take NumPy scalars for Python numbers.
"""

from typing import Any

import numpy as np

from .. import layout
from ..arrays import Array, empty, full, is_bfloat16, is_float, is_floating
from ..backend import backend_of, implementation

Operand = Any  # Array, or a Python bool, int or float

_BOOL, _INTEGER, _FLOAT = range(3)  # categories of dtypes
_OF_PYTHON = {bool: np.dtype(np.bool_), int: np.dtype(np.int64), float: np.dtype(np.float32)}


def common_dtype(*operands: Operand) -> np.dtype:
    """Return the dtype that arithmetic between ``operands`` computes in.

    Raises:
        TypeError: An operand is neither an array of numbers nor a Python number.
    """
    tiers: tuple[list[np.dtype], ...] = ([], [], [])  # arrays, 0-d arrays, Python numbers
    for operand in operands:
        if isinstance(getattr(operand, "dtype", None), np.dtype):
            if is_bfloat16(operand.dtype) and not is_float(operand):
                raise TypeError(
                    f"cannot compute with dtype bfloat16 on backend {backend_of(operand)}, only on "
                    "cuda and emulator; convert to float32"
                )
            tiers[0 if operand.ndim else 1].append(operand.dtype)
        elif type(operand) in _OF_PYTHON:
            tiers[2].append(_OF_PYTHON[type(operand)])
        else:
            raise TypeError(f"cannot compute with {type(operand).__name__}: {operand!r}")
    result: np.dtype | None = None
    for dtypes in tiers:
        tier: np.dtype | None = None
        for dtype in dtypes:
            tier = dtype if tier is None else _wider(tier, dtype)
        if tier is not None and (result is None or _category(tier) > _category(result)):
            result = tier
    assert result is not None
    return result


def _wider(a: np.dtype, b: np.dtype) -> np.dtype:
    if _category(a) == _category(b):
        return np.promote_types(a, b)
    return max(a, b, key=_category)


def _category(dtype: np.dtype) -> int:
    kind = "f" if is_floating(dtype) else dtype.kind
    if kind not in "biuf":
        raise TypeError(f"cannot compute with dtype {dtype}")
    return {"b": _BOOL, "i": _INTEGER, "u": _INTEGER, "f": _FLOAT}[kind]


def _run(name: str, operands: tuple[Operand, ...], dtypes: tuple[Any, ...], result: Any) -> Array:
    """Convert and broadcast the operands, allocate the result, fill it in."""
    like = next((x for x in operands if _is_array(x)), None)
    if like is None:
        raise TypeError(f"{name}: one operand must be an array, got {operands}")
    operands = tuple(
        layout.cast(x, dtype) if _is_array(x) else _number(x, like, dtype)
        for x, dtype in zip(operands, dtypes, strict=True)
    )
    arrays = [x for x in operands if _is_array(x)]
    try:
        shape = np.broadcast_shapes(*(x.shape for x in arrays))
    except ValueError:
        shapes = " and ".join(str(tuple(x.shape)) for x in arrays)
        raise ValueError(f"{name}: shapes {shapes} do not broadcast") from None
    whole = next((x for x in arrays if x.shape == shape), None)
    y = empty(like, shape, result) if whole is None else empty(whole, None, result)
    getattr(implementation(__name__, *arrays), name)(*operands, y)
    return y


def _is_array(x: Operand) -> bool:
    return hasattr(x, "dtype") and not isinstance(x, np.generic)


def _number(x: Operand, like: Array, dtype: Any) -> Any:
    """Return a number as a NumPy scalar, which kernels are given by value, as a float64.

    For bfloat16 it stays float32; an integer that a float64 cannot hold is given as an array.
    """
    dtype = np.dtype(dtype)
    if dtype.kind in "iu" and abs(x) > 2**53:
        return full(like, x, (), dtype)
    with np.errstate(over="ignore"):
        return (np.dtype(np.float32) if is_bfloat16(dtype) else dtype).type(x)


def _unary(name: str, x: Array) -> Array:
    dtype = common_dtype(x)
    return _run(name, (x,), (dtype,), dtype)


def _float_dtype(*operands: Operand) -> np.dtype:
    dtype = common_dtype(*operands)
    return dtype if _category(dtype) == _FLOAT else np.dtype(np.float32)


def _unary_float(name: str, x: Array) -> Array:
    dtype = _float_dtype(x)
    return _run(name, (x,), (dtype,), dtype)


def _binary(name: str, a: Operand, b: Operand) -> Array:
    dtype = common_dtype(a, b)
    return _run(name, (a, b), (dtype, dtype), dtype)


def _not_bool(name: str, *operands: Operand) -> None:
    if common_dtype(*operands) == np.bool_:
        raise TypeError(f"{name}: not defined for bools; use != or where, or convert to int")


def _comparison(name: str, a: Operand, b: Operand) -> Array:
    dtype = common_dtype(a, b)
    if dtype.kind in "iu" and (isinstance(a, int) or isinstance(b, int)):
        dtype = np.dtype(np.int64)  # uint8 < 300 is a question with an answer
    return _run(name, (a, b), (dtype, dtype), np.bool_)


def add(a: Operand, b: Operand) -> Array:
    """a + b. All functions here raise TypeError for operands that are not numbers or live on
    different backends, ValueError for shapes that do not broadcast.
    """
    return _binary("add", a, b)


def accumulate(y: Array, x: Array) -> None:
    """y += x, in place: for gradients that the engine owns. Shapes are equal."""
    implementation(__name__, y, x).add(y, x, y)


def subtract(a: Operand, b: Operand) -> Array:
    """a - b; TypeError for two bools, as PyTorch."""
    _not_bool("subtract", a, b)
    return _binary("subtract", a, b)


def multiply(a: Operand, b: Operand) -> Array:
    """a * b."""
    return _binary("multiply", a, b)


def divide(a: Operand, b: Operand) -> Array:
    """a / b, in float32 when both are integers."""
    dtype = _float_dtype(a, b)
    return _run("divide", (a, b), (dtype, dtype), dtype)


def power(a: Operand, b: Operand) -> Array:
    """a ** b; TypeError for two bools, ValueError for an integer to a negative Python integer.

    To a negative integer in an array: NumPy's ValueError on the CPU, rounded to 0 on CUDA.
    """
    _not_bool("power", a, b)
    if isinstance(b, int) and b < 0 and common_dtype(a, b).kind == "i":
        raise ValueError(f"power: an integer to the power {b} is no integer; convert to float")
    return _binary("power", a, b)


def maximum(a: Operand, b: Operand) -> Array:
    """The larger of a and b; NaN where either is."""
    return _binary("maximum", a, b)


def minimum(a: Operand, b: Operand) -> Array:
    """The smaller of a and b; NaN where either is."""
    return _binary("minimum", a, b)


def equal(a: Operand, b: Operand) -> Array:
    """a == b, as bool."""
    return _comparison("equal", a, b)


def less(a: Operand, b: Operand) -> Array:
    """a < b, as bool; a > b is less(b, a)."""
    return _comparison("less", a, b)


def less_equal(a: Operand, b: Operand) -> Array:
    """a <= b, as bool; a >= b is less_equal(b, a)."""
    return _comparison("less_equal", a, b)


def not_equal(a: Operand, b: Operand) -> Array:
    """a != b, as bool."""
    return _comparison("not_equal", a, b)


def where(condition: Array, a: Operand, b: Operand) -> Array:
    """a where ``condition`` (bool) holds, else b."""
    if condition.dtype != np.bool_:
        raise TypeError(f"where: condition has dtype {condition.dtype}, expected bool")
    dtype = common_dtype(a, b)
    return _run("where", (condition, a, b), (np.bool_, dtype, dtype), dtype)


def negative(x: Array) -> Array:
    """-x; TypeError for bools, as PyTorch."""
    _not_bool("negative", x)
    return _unary("negative", x)


def absolute(x: Array) -> Array:
    """|x|."""
    return _unary("absolute", x)


def sign(x: Array) -> Array:
    """-1, 0 or 1; 0 for NaN, as PyTorch."""
    return _unary("sign", x)


def exp(x: Array) -> Array:
    """e ** x."""
    return _unary_float("exp", x)


def log(x: Array) -> Array:
    """Natural logarithm."""
    return _unary_float("log", x)


def sqrt(x: Array) -> Array:
    """Square root."""
    return _unary_float("sqrt", x)
