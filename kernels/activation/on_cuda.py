"""Activations on CUDA: launches of activation.cu."""

from ..cuda.launch import FLOAT_TYPES, Kernel
from ..cuda.strided import launch


def _kernel(name):
    entry = f"activation_{name}"
    return Kernel(__file__, "activation.cu", entry, block=256, STORAGE=FLOAT_TYPES)


_RELU = _kernel("relu")
_RELU_BACKWARD = _kernel("relu_backward")
_LEAKY_RELU = _kernel("leaky_relu")
_LEAKY_RELU_BACKWARD = _kernel("leaky_relu_backward")
_SIGMOID = _kernel("sigmoid")
_SIGMOID_BACKWARD = _kernel("sigmoid_backward")
_TANH = _kernel("tanh")
_TANH_BACKWARD = _kernel("tanh_backward")


def relu(x, y):
    launch(_RELU, y, x, STORAGE=x.dtype)


def relu_backward(grad_y, y, grad_x):
    launch(_RELU_BACKWARD, grad_x, grad_y, y, STORAGE=grad_y.dtype)


def leaky_relu(x, negative_slope, y):
    launch(_LEAKY_RELU, y, x, options=(negative_slope,), STORAGE=x.dtype)


def leaky_relu_backward(grad_y, x, negative_slope, grad_x):
    launch(_LEAKY_RELU_BACKWARD, grad_x, grad_y, x, options=(negative_slope,), STORAGE=grad_y.dtype)


def sigmoid(x, y):
    launch(_SIGMOID, y, x, STORAGE=x.dtype)


def sigmoid_backward(grad_y, y, grad_x):
    launch(_SIGMOID_BACKWARD, grad_x, grad_y, y, STORAGE=grad_y.dtype)


def tanh(x, y):
    launch(_TANH, y, x, STORAGE=x.dtype)


def tanh_backward(grad_y, y, grad_x):
    launch(_TANH_BACKWARD, grad_x, grad_y, y, STORAGE=grad_y.dtype)
