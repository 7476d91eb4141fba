"""2-D max pooling: the contract that every backend implements.

    y[n,p,q,c] = max over r,s of x[n, p*stride_h + r*dilation_h - pad_h,
                                      q*stride_w + s*dilation_w - pad_w, c]

over the taps on the image: padding never wins. ``argmax`` keeps the offset r*S + s of the winner
inside its window. Of equal cells the first in row-major order wins; NaN beats every number, and
the last NaN wins (PyTorch's rules).

The gradient goes to the winner: grad_x of a pixel is the sum of grad_y over the windows that it
wins (CS763, "backward through a max-pooling layer"). It is gathered pixel by pixel, so that
overlapping windows add in a fixed order.

Arrays are C-contiguous: x (N,H,W,C); y, argmax (N,P,Q,C).
"""

import numpy as np

from ..arrays import Array, check_floats, check_layout, empty
from ..backend import implementation
from ..pooling_window import PoolSize

_BYTE, _INT = np.dtype(np.uint8), np.dtype(np.int32)


def argmax_dtype(size: PoolSize) -> np.dtype:
    """Return the dtype of ``argmax``: uint8, or int32 when a window has more than 256 cells."""
    return _BYTE if size.window_cells <= 256 else _INT


def forward(x: Array, size: PoolSize) -> tuple[Array, Array]:
    """Take the maximum of each window, and note where it is.

    Args:
        x: Activations, (N, H, W, C), float32 or float64; bfloat16 on cuda and emulator.
        size: ``PoolSize.of`` this shape.

    Returns:
        y, (N, P, Q, C), dtype of ``x``, and argmax, (N, P, Q, C), uint8 or int32.

    Raises:
        TypeError: The dtype of ``x`` is not supported.
        ValueError: ``x`` does not have the shape that ``size`` says, or is not contiguous.
    """
    check_floats("max_pool2d", x=x)
    check_layout("max_pool2d", "x", x, size.x_shape)
    y = empty(x, size.y_shape)
    argmax = empty(x, size.y_shape, argmax_dtype(size))
    implementation(__name__, x).forward(x, y, argmax, size)
    return y, argmax


def backward(grad_y: Array, argmax: Array, size: PoolSize) -> Array:
    """Gradient with respect to x: each grad_y goes to the winner of its window.

    Args:
        grad_y: (N, P, Q, C), float32 or float64; bfloat16 on cuda and emulator.
        argmax: (N, P, Q, C), from ``forward``, on the backend of ``grad_y``.
        size: Of the forward pooling.

    Returns:
        (N, H, W, C), dtype of ``grad_y``.

    Raises:
        TypeError: dtypes are not supported, or backends differ.
        ValueError: An array does not have the shape that ``size`` says, or is not contiguous.
    """
    check_floats("max_pool2d", grad_y=grad_y)
    check_layout("max_pool2d", "grad_y", grad_y, size.y_shape)
    _check_argmax(argmax, size)
    grad_x = empty(grad_y, size.x_shape)
    implementation(__name__, grad_y, argmax).backward(grad_y, argmax, grad_x, size)
    return grad_x


def indices(argmax: Array, size: PoolSize) -> Array:
    """Turn offsets inside windows into positions h*W + w in the image, as PyTorch returns them.

    Args:
        argmax: (N, P, Q, C), from ``forward``.
        size: Of that pooling.

    Returns:
        (N, P, Q, C), int64.

    Raises:
        TypeError, ValueError: As ``backward``.
    """
    _check_argmax(argmax, size)
    positions = empty(argmax, argmax.shape, np.int64)
    implementation(__name__, argmax).indices(argmax, positions, size)
    return positions


def _check_argmax(argmax: Array, size: PoolSize) -> None:
    if getattr(argmax, "dtype", None) != argmax_dtype(size):
        raise TypeError(
            f"max_pool2d: argmax has dtype {getattr(argmax, 'dtype', type(argmax).__name__)}, "
            f"expected {argmax_dtype(size)} for windows of {size.window_cells} cells"
        )
    check_layout("max_pool2d", "argmax", argmax, size.y_shape)
