"""Activations on the CPU: one or a few vectorized passes over memory each.

exp and tanh are NumPy's, which are vectorized; Numba would call the C library element by element.
Numba's loops are vectorized when all operands are arrays, none of which is the result too: a
scalar operand, or one updated in place, would cost more than the temporary arrays here.
Constants are float32, which both dtypes absorb: a Python number would make the result float64.
"""

import numpy as np

from ..cpu.jit import elementwise

ZERO, ONE = np.float32(0), np.float32(1)


def relu(x, y):
    _relu(x, out=y)


def relu_backward(grad_y, y, grad_x):
    _relu_backward(grad_y, y, out=grad_x)


def leaky_relu(x, negative_slope, y):
    _where_positive(x, x, negative_slope * x, out=y)


def leaky_relu_backward(grad_y, x, negative_slope, grad_x):
    _where_positive(x, grad_y, negative_slope * grad_y, out=grad_x)


def sigmoid(x, y):
    _minus_absolute(x, out=y)
    _sigmoid_of_small(x, np.exp(y), out=y)


def sigmoid_backward(grad_y, y, grad_x):
    _sigmoid_backward(grad_y, y, out=grad_x)


def tanh(x, y):
    np.tanh(x, out=y)


def tanh_backward(grad_y, y, grad_x):
    _tanh_backward(grad_y, y, out=grad_x)


@elementwise
def _relu(x):
    return ZERO if x < ZERO else x


@elementwise
def _relu_backward(grad_y, y):
    return ZERO if y <= ZERO else grad_y


@elementwise
def _where_positive(x, a, b):
    return a if x > ZERO else b


@elementwise
def _minus_absolute(x):
    return -abs(x)


@elementwise
def _sigmoid_of_small(x, small):
    """small = exp(-|x|) is at most 1."""
    return (small if x < ZERO else ONE) / (ONE + small)


@elementwise
def _sigmoid_backward(grad_y, y):
    return grad_y * (y * (ONE - y))


@elementwise
def _tanh_backward(grad_y, y):
    return grad_y * ((ONE - y) * (ONE + y))
