"""Activation functions: the contract that every backend implements.

    relu(x)       = max(x, 0)                      grad_x = grad_y where y > 0, else 0
    leaky_relu(x) = x where x > 0, else slope * x  grad_x = grad_y where x > 0, else slope * grad_y
    sigmoid(x)    = 1 / (1 + exp(-x))              grad_x = grad_y * y * (1 - y)
    tanh(x)       = tanh(x)                        grad_x = grad_y * (1 - y^2)

The gradients at 0 are 0 and slope, as in PyTorch. NaN stays NaN, and is a result, not a warning.

Arrays of any shape and strides; results have the memory order of x, or of the y it was kept as.
All functions raise TypeError when an array is not float32 or float64, or dtypes or backends
differ, and ValueError when shapes differ.
"""

from ..arrays import Array, check_floats, empty
from ..backend import implementation


def relu(x: Array) -> Array:
    """The larger of x and 0."""
    return _run("relu", x)


def relu_backward(grad_y: Array, y: Array) -> Array:
    """Gradient with respect to x, from the result y of ``relu``."""
    return _run_backward("relu_backward", grad_y, "y", y)


def leaky_relu(x: Array, negative_slope: float) -> Array:
    """x where it is positive, else ``negative_slope`` times x (Maas et al. 2013, section 2)."""
    return _run("leaky_relu", x, float(negative_slope))


def leaky_relu_backward(grad_y: Array, x: Array, negative_slope: float) -> Array:
    """Gradient with respect to x, from x itself: with a negative slope y does not tell its sign."""
    return _run_backward("leaky_relu_backward", grad_y, "x", x, float(negative_slope))


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow for any x."""
    return _run("sigmoid", x)


def sigmoid_backward(grad_y: Array, y: Array) -> Array:
    """Gradient with respect to x, from the result y of ``sigmoid``."""
    return _run_backward("sigmoid_backward", grad_y, "y", y)


def tanh(x: Array) -> Array:
    """Hyperbolic tangent."""
    return _run("tanh", x)


def tanh_backward(grad_y: Array, y: Array) -> Array:
    """Gradient with respect to x, from the result y of ``tanh``."""
    return _run_backward("tanh_backward", grad_y, "y", y)


def _run(name: str, x: Array, *options: float) -> Array:
    check_floats(name, x=x)
    y = empty(x)
    getattr(implementation(__name__, x), name)(x, *options, y)
    return y


def _run_backward(name: str, grad_y: Array, kept: str, array: Array, *options: float) -> Array:
    """``array`` is the x or y, called ``kept``, that the gradient is computed from."""
    check_floats(name, grad_y=grad_y, **{kept: array})
    if grad_y.shape != array.shape:
        raise ValueError(
            f"{name}: grad_y has shape {tuple(grad_y.shape)} but {kept} {tuple(array.shape)}"
        )
    # The order of the kept array: grad_y may be a broadcast scalar, which has none.
    grad_x = empty(array)
    getattr(implementation(__name__, grad_y, array), name)(grad_y, array, *options, grad_x)
    return grad_x
