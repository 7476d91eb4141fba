"""Gathering by an index, and the scattered sum that is its gradient.

    forward   y = x[index]
    backward  grad_x[i] = sum of grad_y over all places where index picks i

``index`` is whatever NumPy indexing takes: ints, slices, None, Ellipsis, int and bool arrays.
Sums run in the C order of grad_y, so that repeated indices give the same bits every time.
"""

from typing import Any

from ..arrays import Array, Shape, empty
from ..backend import implementation


def forward(x: Array, index: Any) -> Array:
    """Return ``x[index]``: a view for slices and ints, a copy for arrays of indices.

    Raises:
        IndexError: ``index`` does not fit the shape of x. What an array of CuPy holds is not looked
            at, which would wait for the GPU: indices out of range wrap around.
    """
    return x[index]


def backward(grad_y: Array, index: Any, x_shape: Shape) -> Array:
    """Return the gradient with respect to x, of shape ``x_shape``, C-contiguous."""
    grad_x = empty(grad_y, x_shape)
    implementation(__name__, grad_y).backward(grad_y, index, grad_x)
    return grad_x
