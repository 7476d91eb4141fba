"""Memory order and dtype: copies of strided arrays, N C H W <-> N H W C.

    y[i] = x[i]

Layout is read from strides, never stored: a public N C H W array is the transposed view of
C-contiguous N H W C memory. Nothing is copied where the memory is right already.
"""

from typing import Any, Literal

import numpy as np

from ..arrays import Array, empty
from ..backend import implementation


def copy(x: Array, dtype: Any = None, *, order: Literal["K", "C"] = "K") -> Array:
    """Return a copy of ``x`` in memory order "K" (as x) or "C", converted to ``dtype``."""
    y = empty(x, x.shape if order == "C" else None, dtype)
    fill(y, x)
    return y


def fill(y: Array, x: Array) -> None:
    """Copy ``x`` into ``y``: any strides, x broadcast to the shape of y, converted to its dtype.

    Raises:
        ValueError: x does not broadcast to the shape of y.
        TypeError: The arrays live on different backends.
    """
    if tuple(x.shape) != tuple(y.shape):
        try:
            x = np.broadcast_to(x, y.shape)
        except ValueError:
            raise ValueError(
                f"copy: shape {tuple(x.shape)} does not broadcast to {tuple(y.shape)}"
            ) from None
    implementation(__name__, x, y).fill(y, x)


def cast(x: Array, dtype: Any) -> Array:
    """Return ``x`` as ``dtype``, itself when it is."""
    return x if x.dtype == dtype else copy(x, dtype)


def contiguous(x: Array) -> Array:
    """Return ``x`` as a C-contiguous array, itself when it is."""
    return x if x.flags.c_contiguous else copy(x, order="C")


def channels_last(x: Array) -> Array:
    """Return a public (N, C, ...) array as C-contiguous (N, ..., C) memory."""
    return contiguous(channels_last_view(x))


def channels_last_view(x: Array) -> Array:
    """Return a public (N, C, ...) array as its (N, ..., C) view."""
    return x.transpose(0, *range(2, x.ndim), 1)


def channels_first(x: Array) -> Array:
    """Return (N, ..., C) memory as its public (N, C, ...) view."""
    return x.transpose(0, -1, *range(1, x.ndim - 1))
