"""2-D average pooling: the contract that every backend implements.

    y[n,p,q,c] = sum over r,s of x[n, p*stride_h + r - pad_h, q*stride_w + s - pad_w, c]
                 / divisor[p,q]

where x is zero on the padding. The divisor is the number of cells of the window on the padded
image (``count_include_pad``), or on the image alone, or a given number (``divisor_override``).
A window that ceil_mode lets run over the edge of the padded image has no cells beyond that edge.

Gradient: each pixel gets grad_y / divisor of all windows over it,

    grad_x[n,h,w,c] = sum over the windows p,q over pixel h,w of grad_y[n,p,q,c] / divisor[p,q].

Arrays are C-contiguous: x (N,H,W,C), y (N,P,Q,C).
"""

import numpy as np

from ..arrays import Array, check_floats, check_layout
from ..backend import implementation
from ..pooling_window import PoolSize


def forward(
    x: Array,
    size: PoolSize,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """Average each window.

    Args:
        x: Activations, (N, H, W, C), float32 or float64.
        size: ``PoolSize.of`` this shape, with dilation 1.
        count_include_pad: Whether the divisor counts cells on the padding.
        divisor_override: The divisor of all windows, if not None; not 0.

    Returns:
        (N, P, Q, C), dtype of ``x``.

    Raises:
        TypeError: The dtype of ``x`` is not supported, or divisor_override is not an int.
        ValueError: ``x`` does not have the shape that ``size`` says or is not contiguous,
            divisor_override is 0, or dilation is not 1.
    """
    check_floats("avg_pool2d", x=x)
    check_layout("avg_pool2d", "x", x, size.x_shape)
    _check(size, divisor_override)
    y = np.empty_like(x, shape=size.y_shape)
    implementation(__name__, x).forward(x, y, size, count_include_pad, divisor_override)
    return y


def backward(
    grad_y: Array,
    size: PoolSize,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """Gradient with respect to x: the transpose of ``forward`` as a linear map.

    Args:
        grad_y: (N, P, Q, C), float32 or float64.
        size: Of the forward pooling.
        count_include_pad: Of the forward pooling.
        divisor_override: Of the forward pooling.

    Returns:
        (N, H, W, C), dtype of ``grad_y``.

    Raises:
        TypeError, ValueError: As ``forward``.
    """
    check_floats("avg_pool2d", grad_y=grad_y)
    check_layout("avg_pool2d", "grad_y", grad_y, size.y_shape)
    _check(size, divisor_override)
    grad_x = np.empty_like(grad_y, shape=size.x_shape)
    implementation(__name__, grad_y).backward(
        grad_y, grad_x, size, count_include_pad, divisor_override
    )
    return grad_x


def _check(size: PoolSize, divisor_override: int | None) -> None:
    if (size.dilation_h, size.dilation_w) != (1, 1):
        raise ValueError(
            f"avg_pool2d: dilation must be 1, got {(size.dilation_h, size.dilation_w)}"
        )
    if divisor_override is None:
        return
    if isinstance(divisor_override, bool) or not isinstance(divisor_override, int | np.integer):
        raise TypeError(
            f"avg_pool2d: divisor_override must be an int or None, got {divisor_override!r}"
        )
    if divisor_override == 0:
        raise ValueError("avg_pool2d: divisor_override must not be 0")


def geometry(
    size: PoolSize, count_include_pad: bool, divisor_override: int | None
) -> tuple[Array, Array, Array]:
    """Return the windows' (first, past last) rows and columns on the image, and their divisors.

    Returns:
        rows (2, P) and columns (2, Q), int64, and divisors (P, Q), float64, NumPy arrays.
    """
    spans, cells = [], []
    for axis in (size.vertical, size.horizontal):
        begin = axis.begin()
        end = np.minimum(begin + axis.taps, axis.length + axis.pad)
        spans.append(np.stack([np.maximum(begin, 0), np.minimum(end, axis.length)]))
        cells.append(end - begin if count_include_pad else spans[-1][1] - spans[-1][0])
    divisors = np.outer(*cells).astype(np.float64)
    if divisor_override is not None:
        divisors[...] = divisor_override
    return spans[0], spans[1], divisors
