"""Activations: definition against the formulas, backends against it, special values, layouts."""

import math
from contextlib import nullcontext

import ml_dtypes
import numpy as np
import pytest
from threads import results_by_threads
from tolerance import assert_within

from convolt.kernels import activation
from convolt.kernels.activation import on_cuda
from convolt.kernels.backend import use_backend

SLOPE = 0.2
DTYPES = [np.float32, np.float64]
ARRAYS = {
    "contiguous": lambda rng: rng.standard_normal((3, 5, 7)),
    "channels_last_view": lambda rng: rng.standard_normal((2, 5, 3, 4)).transpose(0, 3, 1, 2),
    "every_other": lambda rng: rng.standard_normal((7, 10))[:, ::2],
    "reversed": lambda rng: rng.standard_normal((6, 5))[::-1, ::-1],
    "one_row_repeated": lambda rng: np.broadcast_to(rng.standard_normal(5), (4, 5)),
    "scalar": lambda rng: rng.standard_normal(()),
    "empty": lambda rng: rng.standard_normal((0, 3)),
    "saturated": lambda rng: rng.uniform(-80, 80, 101),  # float32 exp(-80) is still normal
}


def sigmoid(v):
    return 1 / (1 + math.exp(-v)) if v > -700 else math.exp(v)


# name: (value at v, derivative at v)
FORMULAS = {
    "relu": (lambda v: max(v, 0.0), lambda v: float(v > 0)),
    "leaky_relu": (lambda v: v if v > 0 else SLOPE * v, lambda v: 1.0 if v > 0 else SLOPE),
    "sigmoid": (sigmoid, lambda v: sigmoid(v) * sigmoid(-v)),
    "tanh": (math.tanh, lambda v: 1 / math.cosh(v) ** 2 if abs(v) < 700 else 0.0),
}


def run(name, x):
    return getattr(activation, name)(x, *([SLOPE] if name == "leaky_relu" else []))


def run_backward(name, grad_y, x, y):
    if name == "leaky_relu":
        return activation.leaky_relu_backward(grad_y, x, SLOPE)
    return getattr(activation, name + "_backward")(grad_y, y)


def by_hand(formula, x):
    return np.array([formula(float(v)) for v in x.reshape(-1)]).reshape(x.shape)


def memory_order(a):
    """Axes from the largest stride to the smallest."""
    return sorted(range(a.ndim), key=lambda axis: -abs(a.strides[axis]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS.keys())
@pytest.mark.parametrize("name", FORMULAS)
def test_values_and_gradients_are_those_of_the_formulas(
    backend, rng, nan_results, name, array, dtype
):
    x = array(rng)
    if dtype != np.float64:
        x = x.astype(dtype)
    value, derivative = FORMULAS[name]
    with nan_results(activation):
        y = run(name, x)
        grad_y = rng.standard_normal(x.shape).astype(dtype)
        grad_x = run_backward(name, grad_y, x, y)
    assert y.dtype == grad_x.dtype == dtype
    ref = by_hand(value, x)
    assert_within(y, ref, abs(ref), 1, c=8)  # NumPy's exp is within 2.52 units in the last place
    # The gradients of sigmoid and tanh see y, rounded: an error of u there is one of u in 1 - y.
    size = abs(grad_y) * (1 if name in ("sigmoid", "tanh") else abs(by_hand(derivative, x)))
    assert_within(grad_x, grad_y * by_hand(derivative, x), size, 1, c=8)


@pytest.mark.parametrize("name", FORMULAS)
def test_backends_agree_with_the_definition_on_large_arrays(backend, rng, name):
    x, grad_y = (rng.standard_normal((8, 17, 33)).astype(np.float32) for _ in range(2))
    results = []
    for other in ("numpy", None):
        with use_backend(other) if other else nullcontext():
            y = run(name, x)
            results.append((y, run_backward(name, grad_y, x, y)))
    for ref, got in zip(*results, strict=True):
        if name in ("relu", "leaky_relu"):
            np.testing.assert_array_equal(got, ref)
        else:
            assert_within(got, ref.astype(np.float64), np.ones_like(ref) + abs(grad_y), 1)


@pytest.mark.parametrize("name", FORMULAS)
def test_bfloat16_is_computed_in_float32_and_rounded(backend, rng, nan_results, name):
    x, grad_y = rng.standard_normal((2, 6, 5, 24)).astype(ml_dtypes.bfloat16)
    if backend != "emulator":
        with pytest.raises(TypeError, match="dtype bfloat16"):
            run(name, x)
        return
    with nan_results(activation):
        y = run(name, x)
        grad_x = run_backward(name, grad_y, x, y)
    assert y.dtype == grad_x.dtype == x.dtype
    x, grad_y, kept = (a.astype(np.float32) for a in (x, grad_y, y))
    with use_backend("numpy"):
        for got, ref in ((y, run(name, x)), (grad_x, run_backward(name, grad_y, x, kept))):
            assert_within(got, ref.astype(np.float64), abs(ref), 1)


@pytest.mark.parametrize("name", FORMULAS)
def test_kernels_work_in_place(backend, rng, name):
    if backend != "emulator":
        return
    x, grad_y = rng.standard_normal((2, 5, 33))
    options = [SLOPE] if name == "leaky_relu" else []
    y = run(name, x)
    grad_x = run_backward(name, grad_y, x, y)
    kept = (x if name == "leaky_relu" else y).copy()
    memory = x.copy()
    getattr(on_cuda, name)(memory, *options, memory)
    np.testing.assert_array_equal(memory, y)
    memory = grad_y.copy()
    getattr(on_cuda, f"{name}_backward")(memory, kept, *options, memory)
    np.testing.assert_array_equal(memory, grad_x)
    getattr(on_cuda, f"{name}_backward")(grad_y, kept, *options, kept)
    np.testing.assert_array_equal(kept, grad_x)


@pytest.mark.parametrize("name", FORMULAS)
def test_bits_depend_neither_on_threads_nor_on_addresses(rng, name):
    x, grad_y = rng.standard_normal((2, 70_001)).astype(np.float32)
    shifted = np.empty((2, x.size + 1), np.float32)[:, 1:]
    shifted[...] = x, grad_y

    def both(x, grad_y):
        y = run(name, x)
        return y.tobytes(), run_backward(name, grad_y, x, y).tobytes()

    with use_backend("numba"):
        results = results_by_threads(lambda: both(x, grad_y))
        results.append(both(*shifted))
    assert len(set(results)) == 1


@pytest.mark.parametrize("name", FORMULAS)
def test_gradients_are_directional_derivatives(backend, rng, name):
    x, grad_y, direction = rng.standard_normal((3, 4, 5, 6))
    x += np.copysign(1e-2, x)  # away from the kink
    h = 1e-5
    slope = (grad_y * (run(name, x + h * direction) - run(name, x - h * direction))).sum() / (2 * h)
    gradient = run_backward(name, grad_y, x, run(name, x))
    assert abs(slope - (gradient * direction).sum()) <= 1e-8


@pytest.mark.parametrize("name", FORMULAS)
def test_results_have_the_memory_order_of_x(backend, rng, name):
    x = ARRAYS["channels_last_view"](rng)
    y = run(name, x)
    assert y.strides == x.strides
    assert run_backward(name, np.broadcast_to(1.0, x.shape), x, y).strides == x.strides
    every_other = rng.standard_normal((4, 6, 10)).transpose(2, 0, 1)[::2]
    y = run(name, every_other)
    assert memory_order(y) == memory_order(every_other)
    assert y.nbytes == max(s * n for s, n in zip(y.strides, y.shape, strict=True))  # no holes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "values"),
    {
        # at nan, inf, -inf, 1000, -1000, 0, -0
        "relu": [np.nan, np.inf, 0, 1000, 0, 0, 0],
        "leaky_relu": [np.nan, np.inf, -np.inf, 1000, -1000 * SLOPE, 0, 0],
        "sigmoid": [np.nan, 1, 0, 1, 0, 0.5, 0.5],
        "tanh": [np.nan, 1, -1, 1, -1, 0, 0],
    }.items(),
)
def test_special_values_are_results_not_warnings(backend, dtype, name, values):
    x = np.array([np.nan, np.inf, -np.inf, 1000, -1000, 0, -0.0] * 9, dtype)
    y = run(name, x)
    np.testing.assert_array_equal(y, np.array(values * 9, dtype))
    gradients = {
        "relu": [1, 1, 0, 1, 0, 0, 0],
        "leaky_relu": [SLOPE, 1, SLOPE, 1, SLOPE, SLOPE, SLOPE],
        "sigmoid": [np.nan, 0, 0, 0, 0, 0.25, 0.25],
        "tanh": [np.nan, 0, 0, 0, 0, 1, 1],
    }[name]
    grad_x = run_backward(name, np.ones_like(x), x, y)
    np.testing.assert_array_equal(grad_x, np.array(gradients * 9, dtype))


def test_a_small_sigmoid_keeps_its_digits(backend):
    x = np.array([-20, -50, -80], np.float32)
    np.testing.assert_allclose(activation.sigmoid(x), np.exp(x.astype(float)), rtol=5e-7)


def test_a_dead_unit_passes_no_infinite_gradient(backend):
    y = np.zeros(3, np.float32)
    np.testing.assert_array_equal(activation.relu_backward(np.full(3, np.inf, "f4"), y), 0)


@pytest.mark.parametrize("name", FORMULAS)
def test_bad_input_is_an_error(backend, name):
    x = np.ones((2, 3), np.float32)
    with pytest.raises(TypeError, match=f"{name}: x has dtype int64"):
        run(name, np.ones(3, np.int64))
    with pytest.raises(TypeError, match=f"{name}: x is list"):
        run(name, [1.0])
    with pytest.raises(TypeError, match=f"{name}_backward: . has dtype float64"):
        run_backward(name, x, x.astype(float), x.astype(float))
    with pytest.raises(ValueError, match=rf"{name}_backward: grad_y has shape \(3,\)"):
        run_backward(name, x[0], x, x)
    assert run(name, x).shape == run_backward(name, x, x, x).shape == (2, 3)
