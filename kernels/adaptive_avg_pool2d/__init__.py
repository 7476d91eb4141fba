"""2-D adaptive average pooling: the contract that every backend implements.

    y[n,p,q,c] = mean of x[n, h, w, c] over floor(p*H/P) <= h < ceil((p+1)*H/P)
                                       and  floor(q*W/Q) <= w < ceil((q+1)*W/Q)

The number P x Q of windows is given, and they share the image out evenly; neighbours overlap
where P does not divide H. P = Q = 1 is global average pooling.

Gradient: each pixel gets grad_y / (cells of the window) of all windows over it.

Arrays are C-contiguous: x (N,H,W,C), y (N,P,Q,C).
"""

from dataclasses import dataclass

import numpy as np

from ..arrays import (
    Array,
    Shape,
    check_floats,
    check_index_range,
    check_layout,
    check_rank,
    empty,
    pair,
)
from ..backend import implementation


@dataclass(frozen=True, slots=True)
class AdaptivePoolSize:
    """Sizes of one pooling: x (N,H,W,C), y (N,P,Q,C)."""

    n: int
    h: int
    w: int
    c: int
    p: int
    q: int

    def geometry(self) -> tuple[Array, Array, Array]:
        """Return the windows' (first, past last) rows and columns, and their numbers of cells.

        Returns:
            rows (2, P) and columns (2, Q), int64, and cells (P, Q), float64, NumPy arrays.
        """
        spans = []
        for length, count in ((self.h, self.p), (self.w, self.q)):
            window = np.arange(count)
            spans.append(np.stack([window * length // count, -(-(window + 1) * length // count)]))
        rows, columns = spans
        cells = np.outer(rows[1] - rows[0], columns[1] - columns[0])
        return rows, columns, cells.astype(np.float64)


def forward(x: Array, output_size: int | tuple[int, int]) -> Array:
    """Average P x Q windows that share the image out evenly.

    Args:
        x: Activations, (N, H, W, C), float32 or float64; bfloat16 on cuda and emulator.
        output_size: P and Q, an int or (vertical, horizontal), >= 0.

    Returns:
        (N, P, Q, C), dtype of ``x``.

    Raises:
        TypeError: The dtype of ``x`` is not supported, or output_size is not an int or a pair of
            ints.
        ValueError: ``x`` has not 4 axes, is not contiguous, or has no pixels; output_size is
            negative; or y would hold more than 2**31 - 1 elements.
    """
    check_floats("adaptive_avg_pool2d", x=x)
    check_rank("adaptive_avg_pool2d", 4, x=x)
    _check_image("x", x.shape)
    check_layout("adaptive_avg_pool2d", "x", x, x.shape)
    n, h, w, c = x.shape
    p, q = pair("adaptive_avg_pool2d", "output_size", output_size, least=0)
    check_index_range("adaptive_avg_pool2d", x=x.size, y=n * p * q * c)
    y = empty(x, (n, p, q, c))
    implementation(__name__, x).forward(x, y, AdaptivePoolSize(n, h, w, c, p, q))
    return y


def backward(grad_y: Array, x_shape: Shape) -> Array:
    """Gradient with respect to x: the transpose of ``forward`` as a linear map.

    Args:
        grad_y: (N, P, Q, C), float32 or float64; bfloat16 on cuda and emulator.
        x_shape: (N, H, W, C) of the forward pooling.

    Returns:
        (N, H, W, C), dtype of ``grad_y``.

    Raises:
        TypeError: The dtype of ``grad_y`` is not supported.
        ValueError: ``grad_y`` has not 4 axes or is not contiguous, x_shape has not 4 axes or no
            pixels, N or C differ, or grad_x would hold more than 2**31 - 1 elements.
    """
    check_floats("adaptive_avg_pool2d", grad_y=grad_y)
    check_rank("adaptive_avg_pool2d", 4, grad_y=grad_y)
    _check_image("x_shape", x_shape)
    n, h, w, c = x_shape
    p, q = grad_y.shape[1:3]
    check_layout("adaptive_avg_pool2d", "grad_y", grad_y, (n, p, q, c))
    check_index_range("adaptive_avg_pool2d", grad_x=n * h * w * c)
    grad_x = empty(grad_y, tuple(x_shape))
    size = AdaptivePoolSize(n, h, w, c, p, q)
    implementation(__name__, grad_y).backward(grad_y, grad_x, size)
    return grad_x


def _check_image(name: str, shape: Shape) -> None:
    if len(shape) != 4 or min(shape[1:3]) < 1:
        raise ValueError(
            f"adaptive_avg_pool2d: {name} must be (N, H, W, C) with at least one pixel, "
            f"got {tuple(shape)}"
        )
