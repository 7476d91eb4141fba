"""Activations on the CPU: one pass over flat memory by all threads, at the speed of memory.

All share one parallel function, which is compiled once: it chooses the loop of an activation for
a stretch of memory. The loops have no branches and call no library, so that they are vectorized
(but for a result that lies over an operand, which is right, and slower). Constants are float32,
which both dtypes absorb: a Python number would make the arithmetic float64.
"""

import math

import numpy as np
from numba import prange

from ..cpu.exponential import exp, exp_and_less_one
from ..cpu.flat import flat
from ..cpu.jit import jit, parallel_jit

STRETCH = 1 << 14  # elements that a turn of the parallel loop computes
ZERO, ONE, TWO = map(np.float32, (0, 1, 2))
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
    _run(kind, a, b, y.dtype.type(slope), y)


@parallel_jit
def _run(kind, a, b, slope, y):
    size, step = np.uint64(len(y)), np.uint64(STRETCH)
    for part in prange((size + step - np.uint64(1)) // step):
        first = np.uint64(part) * step
        _stretch(kind, a, b, slope, first, min(first + step, size), y)


@jit
def _stretch(kind, a, b, slope, first, end, y):
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
            y[i] = _sigmoid(a[i])
    elif kind == SIGMOID_BACKWARD:
        for i in range(first, end):
            y[i] = a[i] * (b[i] * (ONE - b[i]))
    elif kind == TANH:
        for i in range(first, end):
            y[i] = _tanh(a[i])
    else:
        for i in range(first, end):
            y[i] = a[i] * ((ONE - b[i]) * (ONE + b[i]))


@jit
def _sigmoid(x):
    small = exp(-abs(x))  # at most 1
    return (small if x < ZERO else ONE) / (ONE + small)


@jit
def _tanh(x):
    """(1 - s) / (1 + s), s = exp(-2|x|)."""
    small, less = exp_and_less_one(-TWO * abs(x))
    return math.copysign(less / (ONE + small), x)
