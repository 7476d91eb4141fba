"""Activations on the CPU: one pass over flat memory by all threads, at the speed of memory.

All share one parallel function, which is compiled once: it chooses the loop of an activation for
a stretch of memory. The loops have no branches and call no library, so that they are vectorized
(but for a result that lies over an operand, which is right, and slower). Constants are float32,
which both dtypes absorb: a Python number would make the arithmetic float64.
"""

import numpy as np
from numba import prange

from ..cpu.exponential import CONSTANTS, exp_parts, multiply_add
from ..cpu.flat import flat
from ..cpu.jit import jit, parallel_jit

STRETCH = 1 << 14  # elements that a turn of the parallel loop computes
ZERO, QUARTER, ONE, TWO = map(np.float32, (0, 0.25, 1, 2))
RELU, RELU_BACKWARD, LEAKY_RELU, SIGMOID, SIGMOID_BACKWARD, TANH, TANH_BACKWARD = range(7)


def relu(x, y):
    _fill(RELU, x, x, 0, y)


def relu_backward(grad_y, y, grad_x):
    _fill(RELU_BACKWARD, grad_y, y, 0, grad_x)


def leaky_relu(x, negative_slope, y):
    _fill(LEAKY_RELU, x, x, negative_slope, y)


def leaky_relu_backward(grad_y, x, negative_slope, grad_x):
    _fill(LEAKY_RELU, grad_y, x, negative_slope, grad_x)


def sigmoid(x, y):
    _fill(SIGMOID, x, x, 0, y)


def sigmoid_backward(grad_y, y, grad_x):
    _fill(SIGMOID_BACKWARD, grad_y, y, 0, grad_x)


def tanh(x, y):
    _fill(TANH, x, x, 0, y)


def tanh_backward(grad_y, y, grad_x):
    _fill(TANH_BACKWARD, grad_y, y, 0, grad_x)


def _fill(kind, a, b, slope, result):
    y, a, b = flat(result, a, b)
    _run(kind, a, b, y.dtype.type(slope), CONSTANTS[y.dtype.name], y)


@parallel_jit
def _run(kind, a, b, slope, constants, y):
    size, step = np.uint64(len(y)), np.uint64(STRETCH)
    for part in prange((size + step - np.uint64(1)) // step):
        first = np.uint64(part) * step
        _stretch(kind, a, b, slope, constants, first, min(first + step, size), y)


@jit
def _stretch(kind, a, b, slope, constants, first, end, y):
    """y[i] = f(a[i], b[i]), first <= i < end, for the f that ``kind`` names."""
    if kind == RELU:
        for i in range(first, end):
            y[i] = ZERO if a[i] < ZERO else a[i]
    elif kind == RELU_BACKWARD:
        for i in range(first, end):
            y[i] = ZERO if b[i] <= ZERO else a[i]
    elif kind == LEAKY_RELU:
        for i in range(first, end):
            y[i] = a[i] if b[i] > ZERO else slope * a[i]
    elif kind == SIGMOID:
        for i in range(first, end):
            y[i] = _sigmoid(a[i], constants)
    elif kind == SIGMOID_BACKWARD:
        for i in range(first, end):
            y[i] = a[i] * (b[i] * (ONE - b[i]))
    elif kind == TANH:
        for i in range(first, end):
            y[i] = _tanh(a[i], constants)
    else:
        for i in range(first, end):
            y[i] = a[i] * ((ONE - b[i]) * (ONE + b[i]))


@jit
def _sigmoid(x, constants):
    a, b, e = exp_parts(-abs(x), constants)
    small = multiply_add(b, e, b) * a  # exp(-|x|), at most 1
    return (small if x < ZERO else ONE) / (ONE + small)


@jit
def _tanh(x, constants):
    """(1 - s) / (1 + s) = 1 - 2 s / (1 + s), s = exp(-2|x|): where 1 - s, or y, is small."""
    a, b, e = exp_parts(-TWO * abs(x), constants)
    scale = a * b
    small = multiply_add(scale, e, scale)
    less = multiply_add(scale, e, scale - ONE)  # s - 1, whose digits s has not kept
    near_one = small < QUARTER
    ratio = (TWO * small if near_one else -less) / (ONE + small)
    y = ONE - ratio if near_one else ratio
    return y if x > ZERO else x if x == ZERO else -y
