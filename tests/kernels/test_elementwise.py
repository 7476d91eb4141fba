"""elementwise: every function against Python's own arithmetic, promotion, broadcasting, order."""

import math
import operator

import numpy as np
import pytest

from convolt.kernels import elementwise, layout
from convolt.kernels.backend import use_backend

BINARY = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "power": lambda a, b: abs(a) ** b,
    "maximum": max,
    "minimum": min,
    "equal": operator.eq,
    "not_equal": operator.ne,
    "less": operator.lt,
    "less_equal": operator.le,
}
UNARY = {
    "negative": operator.neg,
    "absolute": abs,
    "sign": lambda a: (a > 0) - (a < 0),
    "exp": math.exp,
    "log": lambda a: math.log(abs(a)),
    "sqrt": lambda a: math.sqrt(abs(a)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", BINARY)
def test_binary_functions_compute_what_python_does(backend, rng, nan_results, name, dtype):
    a, b = (rng.standard_normal((3, 1, 5)).astype(dtype) for _ in range(2))
    a.flat[:3] = b.flat[:3]  # some ties
    a = abs(a) if name == "power" else a
    with nan_results(elementwise):
        y = getattr(elementwise, name)(a, b)
    expected = [BINARY[name](float(u), float(v)) for u, v in zip(a.flat, b.flat, strict=True)]
    # One rounding; power has a library's error of a few units in the last place.
    rtol = np.finfo(dtype).eps * (8 if name == "power" else 1)
    np.testing.assert_allclose(y, np.reshape(expected, y.shape), rtol=rtol)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", UNARY)
def test_unary_functions_compute_what_python_does(backend, rng, nan_results, name, dtype):
    x = rng.standard_normal((7, 3)).astype(dtype)
    x = abs(x) if name in ("log", "sqrt") else x
    with nan_results(elementwise):
        y = getattr(elementwise, name)(x)
    assert y.dtype == dtype
    expected = np.reshape([UNARY[name](float(v)) for v in x.flat], x.shape)
    np.testing.assert_allclose(y, expected, rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("name", [*BINARY, *UNARY, "where"])
def test_backends_agree_on_the_bits_of_integers_and_on_special_values(name):
    special = np.array([0.0, -0.0, 1.0, -2.0, 3.0, np.inf, -np.inf, np.nan], np.float32)
    a, b = np.meshgrid(special, special)
    arguments = (a,) if name in UNARY else (a, b)
    if name == "where":
        arguments = (a > 0, a, b)
    with use_backend("numpy"):
        expected = getattr(elementwise, name)(*arguments)
    with use_backend("numba"):
        got = getattr(elementwise, name)(*arguments)
    np.testing.assert_array_equal(got, expected)


def test_sign_of_nan_is_zero_as_in_pytorch(backend):
    np.testing.assert_array_equal(elementwise.sign(np.array([np.nan, -3.0])), [0.0, -1.0])


def test_accumulate_adds_in_place(backend):
    y = np.ones((2, 3), np.float32)
    elementwise.accumulate(y, np.full((2, 3), 2.0, np.float32))
    np.testing.assert_array_equal(y, np.full((2, 3), 3.0))


def test_results_keep_the_memory_order_of_the_first_full_operand(backend, rng):
    x = layout.channels_first(rng.standard_normal((2, 4, 5, 3)))  # N C H W over N H W C
    scale = rng.standard_normal((3, 1, 1))
    for y in (
        elementwise.multiply(x, scale),
        elementwise.multiply(scale, x),
        elementwise.exp(x),
        elementwise.less(x, 0.0),
        elementwise.where(x > 0, x, 0.0),
    ):
        assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    outer = elementwise.add(np.ones((3, 1)), np.ones((1, 2)))
    assert outer.shape == (3, 2)
    assert outer.flags.c_contiguous


def test_any_strides_and_empty_arrays(backend, rng):
    x = rng.standard_normal((6, 7))
    np.testing.assert_array_equal(
        elementwise.add(x[::-2, 1:], x[1::2, :6]), x[::-2, 1:] + x[1::2, :6]
    )
    assert elementwise.add(np.ones((0, 3)), np.ones(3)).shape == (0, 3)
    assert elementwise.add(np.array(1.0), 2).shape == ()


F32, F64, I64, I32, U8, BOOL = np.float32, np.float64, np.int64, np.int32, np.uint8, np.bool_
PROMOTION = [
    ((np.ones(2, F32), 2.5), F32),
    ((np.ones(2, F32), np.array(2.5, F64)), F32),
    ((np.ones(2, F32), np.ones(2, F64)), F64),
    ((np.ones(2, F32), np.ones(2, I64)), F32),
    ((np.ones(2, I64), 2.5), F32),
    ((np.ones(2, I64), np.array(2.5, F64)), F64),
    ((np.ones(2, U8), 3), U8),
    ((np.ones(2, U8), np.ones(2, I32)), I32),
    ((np.ones(2, BOOL), 3), I64),
    ((np.ones(2, BOOL), True), BOOL),
    ((np.array(1.0, F32), np.array(1.0, F64)), F64),
    ((np.array(1, I64), 1.5), F32),
]


@pytest.mark.parametrize(("operands", "dtype"), PROMOTION)
def test_dtypes_promote_as_in_pytorch(operands, dtype):
    assert elementwise.common_dtype(*operands) == dtype
    assert elementwise.common_dtype(*reversed(operands)) == dtype


def test_integer_arithmetic(backend):
    a = np.array([7, -3, 2])
    assert elementwise.divide(a, 2).dtype == np.float32
    np.testing.assert_array_equal(elementwise.divide(a, 2), [3.5, -1.5, 1.0])
    np.testing.assert_array_equal(elementwise.power(a, 2), [49, 9, 4])
    assert elementwise.exp(a).dtype == np.float32
    assert elementwise.sign(a).tolist() == [1, -1, 1]


def test_bad_operands_are_refused_and_the_next_call_is_right(backend):
    x = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"add: shapes \(2, 3\) and \(2,\) do not broadcast"):
        elementwise.add(x, np.ones(2))
    with pytest.raises(TypeError, match="cannot compute with str"):
        elementwise.add(x, "1")
    with pytest.raises(TypeError, match="complex128"):
        elementwise.add(x, np.ones(3, complex))
    with pytest.raises(TypeError, match="subtract: not defined for bools"):
        elementwise.subtract(x > 0, x > 0)
    with pytest.raises(ValueError, match="no integer"):
        elementwise.power(np.ones(2, int), -1)
    with pytest.raises(TypeError, match="expected bool"):
        elementwise.where(x, x, x)
    np.testing.assert_array_equal(elementwise.add(x, 1), np.full((2, 3), 2.0))
