"""elementwise: every function against Python's own arithmetic, promotion, broadcasting, order."""

import itertools
import math
import operator

import ml_dtypes
import numpy as np
import pytest
from threads import results_by_threads
from tolerance import assert_within

from convolt.kernels import elementwise, layout
from convolt.kernels.backend import use_backend
from convolt.kernels.elementwise import on_numba

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


TYPES = ["bool", "uint8", "int64", "float32"]  # each compiles the kernels once more
OF_FLOATS = {"divide", "exp", "log", "sqrt"}
NOT_OF_BOOLS = {"subtract", "power", "negative"}


def arguments(name, a, b):
    """Of a function: one array, two, or two and a condition that NaN does not meet."""
    if name in UNARY:
        return (a,)
    return (a > 0, a, b) if name == "where" else (a, b)


@pytest.mark.parametrize("name", [*BINARY, *UNARY, "where"])
def test_backends_agree_on_special_values(backend, nan_results, name):
    special = np.array([0.0, -0.0, 1.0, -2.0, 3.0, np.inf, -np.inf, np.nan], np.float32)
    operands = arguments(name, *np.meshgrid(special, special))
    with use_backend("numpy"):
        expected = getattr(elementwise, name)(*operands)
    with nan_results(elementwise):
        got = getattr(elementwise, name)(*operands)
    rtol = 4 * np.finfo(np.float32).eps if name in (*OF_FLOATS, "power") else 0
    np.testing.assert_allclose(got, expected, rtol=rtol)


@pytest.mark.parametrize("name", [*BINARY, *UNARY, "where"])
def test_backends_agree_on_the_bits_of_integers_in_any_type_and_memory(backend, rng, name):
    for dtype in TYPES:
        if dtype == "bool" and name in NOT_OF_BOOLS:
            continue
        highest = 2 if dtype == "bool" else 5  # powers fit uint8
        a, b = rng.integers(0, highest, (2, 6, 5, 16)).astype(dtype)
        pairs = [
            (a, b),
            (a, b[0]),
            (a[:1, :, :1], b),
            (a[::-2], b[1::2]),
            (a.T, b.T),
            (a.T, b.T[3]),
        ]
        for pair in pairs:
            operands = arguments(name, *pair)
            with use_backend("numpy"):
                expected = getattr(elementwise, name)(*operands)
            got = getattr(elementwise, name)(*operands)
            assert got.dtype == expected.dtype
            assert got.strides == expected.strides
            if name in OF_FLOATS:
                np.testing.assert_allclose(got, expected, rtol=4 * np.finfo(got.dtype).eps)
            else:
                np.testing.assert_array_equal(got, expected)


NUMBERS = [2, 0.1, -0.0, math.inf, math.nan, 2**53 + 1]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("name", [*BINARY, "where"])
def test_numbers_are_as_arrays_of_one_element(backend, rng, name, number):
    for dtype in (np.float32, np.int64):
        x = np.array([0, 1, 2, 3, 5, 8, 2**53 + 1]).astype(dtype)
        if name == "power" and number > 9:
            continue
        filled = np.full((), number, elementwise.common_dtype(x, number))
        for pair, expected in (((x, number), (x, filled)), ((number, x), (filled, x))):
            one, other = ((x > 1, *p) if name == "where" else p for p in (pair, expected))
            with use_backend("numpy"):
                expected = getattr(elementwise, name)(*other)
            got = getattr(elementwise, name)(*one)
            assert got.dtype == expected.dtype
            rtol = 4 * np.finfo(np.float32).eps if name in ("divide", "power") else 0
            np.testing.assert_allclose(got, expected, rtol=rtol)
    two_numbers = elementwise.where(np.arange(9) % 2 == 0, 1.5, -0.5)
    assert two_numbers.tolist() == [1.5, -0.5] * 4 + [1.5]
    assert two_numbers.dtype == np.float32


def test_numbers_keep_their_sign_and_are_not_rounded_to_bfloat16(backend):
    x = np.ones(5, np.float32)
    np.testing.assert_array_equal(elementwise.divide(x, -0.0), np.full(5, -np.inf))
    np.testing.assert_array_equal(elementwise.add(np.float32(2), x), np.full(5, 3))
    with pytest.raises(TypeError, match="one operand must be an array"):
        elementwise.add(np.float32(2), 1)
    if backend == "emulator":
        x = np.full(5, 255, ml_dtypes.bfloat16)
        y = elementwise.multiply(x, 1.003)  # as a bfloat16: 1
        assert y.dtype == x.dtype
        np.testing.assert_array_equal(y, np.full(5, 256))


def test_negative_integers(backend, rng):
    a, b = rng.integers(-9, 10, (2, 50))
    for name in ("add", "subtract", "multiply", "maximum", "less"):
        expected = [BINARY[name](int(u), int(v)) for u, v in zip(a, b, strict=True)]
        assert getattr(elementwise, name)(a, b).tolist() == expected
    assert elementwise.power(a, abs(b)).tolist() == [
        int(u) ** abs(int(v)) for u, v in zip(a, b, strict=True)
    ]
    for name in ("negative", "absolute", "sign"):
        assert getattr(elementwise, name)(a).tolist() == [UNARY[name](int(u)) for u in a]


@pytest.mark.parametrize("name", [*BINARY, *UNARY, "where"])
def test_bfloat16_is_computed_in_float32_and_rounded(backend, rng, nan_results, name):
    bfloat16 = ml_dtypes.bfloat16
    a, b = abs(rng.standard_normal((2, 7, 24))).astype(bfloat16)
    wide = arguments(name, a.astype(np.float32), b.astype(np.float32))
    operands = {1: (a,), 2: (a, b), 3: (wide[0], a, b)}[len(wide)]
    if backend != "emulator":
        with pytest.raises(TypeError, match=f"bfloat16 on backend {backend}"):
            getattr(elementwise, name)(*operands)
        return
    with nan_results(elementwise):
        y = getattr(elementwise, name)(*operands)
    with use_backend("numpy"):
        expected = getattr(elementwise, name)(*wide)
    if expected.dtype == np.bool_:
        np.testing.assert_array_equal(y, expected)
    else:
        assert y.dtype == bfloat16
        assert_within(y, expected.astype(np.float64), abs(expected), 1)


def test_bfloat16_promotes_as_a_float():
    with use_backend("emulator"):
        x = np.ones(2, ml_dtypes.bfloat16)
        assert elementwise.common_dtype(x, np.ones(2, F32)) == F32
        assert elementwise.common_dtype(x, np.ones(2, I64)) == x.dtype
        assert elementwise.common_dtype(x, 2.5) == x.dtype


def test_sign_of_nan_is_zero_as_in_pytorch(backend):
    np.testing.assert_array_equal(elementwise.sign(np.array([np.nan, -3.0])), [0.0, -1.0])


def test_accumulate_adds_in_place(backend):
    y = np.ones((2, 3), np.float32)
    elementwise.accumulate(y, np.full((2, 3), 2.0, np.float32))
    np.testing.assert_array_equal(y, np.full((2, 3), 3.0))
    columns = y.T
    elementwise.accumulate(columns, np.arange(6, dtype=np.float32).reshape(3, 2))
    np.testing.assert_array_equal(y, [[3, 5, 7], [4, 6, 8]])


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_arrays_are_numpys_bit_by_bit(rng, monkeypatch, dtype):
    """By Numba's loops: in any order of memory, and in place."""
    monkeypatch.setattr(on_numba, "LARGE_BYTES", 0)
    with use_backend("numba"):
        for shape in ((3, 5, 37, 41), (70_001,), (1,), (2, 0)):
            a, b = rng.standard_normal((2, *shape)).astype(dtype)
            a.flat[::7] = b.flat[::3] = 0
            for x, y in ((a, b), (a.T, b.T), (a[..., ::2], b[..., ::2]), (a, np.flip(b))):
                for name in ("add", "subtract", "multiply", "divide"):
                    with np.errstate(all="ignore"):
                        expected = getattr(np, name)(x, y)
                    np.testing.assert_array_equal(getattr(elementwise, name)(x, y), expected)
                total = np.concatenate([x, x], axis=-1)
                for here in (total[..., : x.shape[-1]], total.copy()[..., : x.shape[-1]], x.copy()):
                    elementwise.accumulate(here, y)
                    np.testing.assert_array_equal(here, x + y)
                np.testing.assert_array_equal(total[..., x.shape[-1] :], x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parts_that_begin_with_lines_leave_nothing_out(rng, monkeypatch, dtype):
    """At any place in a line of the cache, on any number of threads."""
    monkeypatch.setattr(on_numba, "LARGE_BYTES", 0)
    size = 2 * on_numba.PART
    for first, length in itertools.product((0, 1, 7, 15), (1, 9, size - 1, size, size + 17)):
        memory, x = rng.standard_normal(size + 64).astype(dtype), rng.standard_normal(length)
        x = x.astype(dtype)

        def accumulated(memory=memory, here=slice(first, first + length), x=x):
            total = memory.copy()
            elementwise.accumulate(total[here], x)
            return total.tobytes()

        with use_backend("numba"):
            results = results_by_threads(accumulated)
        memory[first : first + length] += x
        assert set(results) == {memory.tobytes()}


def test_lengths_around_a_pack(backend, rng):
    memory = rng.standard_normal(64).astype(np.float32)
    for length in range(1, 12):
        for first in range(3):  # on 16 bytes, or not
            x = memory[first : first + length]
            np.testing.assert_array_equal(elementwise.add(x, x), x + x)
            np.testing.assert_array_equal(elementwise.less(x, 0.0), x < 0)


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
