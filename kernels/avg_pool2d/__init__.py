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

from dataclasses import dataclass

import numpy as np

from ..arrays import Array, check_floats, check_layout, empty
from ..backend import implementation
from ..pooling_window import PoolSize


@dataclass(frozen=True, slots=True)
class AvgPoolWindows:
    """Which pixels each window averages, and the divisor of their sum.

    Raises:
        TypeError: divisor_override is not an int.
        ValueError: divisor_override is 0, or dilation is not 1.
    """

    size: PoolSize
    count_include_pad: bool
    divisor_override: int | None

    def __post_init__(self) -> None:
        dilation = (self.size.dilation_h, self.size.dilation_w)
        if dilation != (1, 1):
            raise ValueError(f"avg_pool2d: dilation must be 1, got {dilation}")
        divisor = self.divisor_override
        if divisor is None:
            return
        if isinstance(divisor, bool) or not isinstance(divisor, int | np.integer):
            raise TypeError(f"avg_pool2d: divisor_override must be an int or None, got {divisor!r}")
        if divisor == 0:
            raise ValueError("avg_pool2d: divisor_override must not be 0")

    def geometry(self) -> tuple[Array, Array, Array]:
        """Return the windows' (first, past last) rows and columns on the image, and their divisors.

        Returns:
            rows (2, P) and columns (2, Q), int64, and divisors (P, Q), float64, NumPy arrays.
        """
        spans, cells = [], []
        for axis in (self.size.vertical, self.size.horizontal):
            begin = axis.begin()
            end = np.minimum(begin + axis.taps, axis.length + axis.pad)
            spans.append(np.stack([np.maximum(begin, 0), np.minimum(end, axis.length)]))
            cells.append(end - begin if self.count_include_pad else spans[-1][1] - spans[-1][0])
        divisors = np.outer(*cells).astype(np.float64)
        if self.divisor_override is not None:
            divisors[...] = self.divisor_override
        return spans[0], spans[1], divisors


def forward(
    x: Array,
    size: PoolSize,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """Average each window.

    Args:
        x: Activations, (N, H, W, C), float32 or float64; bfloat16 on cuda and emulator.
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
    windows = AvgPoolWindows(size, count_include_pad, divisor_override)
    y = empty(x, size.y_shape)
    implementation(__name__, x).forward(x, y, windows)
    return y


def backward(
    grad_y: Array,
    size: PoolSize,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """Gradient with respect to x: the transpose of ``forward`` as a linear map.

    Args:
        grad_y: (N, P, Q, C), float32 or float64; bfloat16 on cuda and emulator.
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
    windows = AvgPoolWindows(size, count_include_pad, divisor_override)
    grad_x = empty(grad_y, size.x_shape)
    implementation(__name__, grad_y).backward(grad_y, grad_x, windows)
    return grad_x
