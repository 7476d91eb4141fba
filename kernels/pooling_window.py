"""The windows of 2-D pooling: sizes and geometry that max and average pooling share.

Window p of an axis starts at pixel begin = p*stride - pad and has taps at begin + r*dilation,
r = 0 .. R-1. The same along the other axis, with q, s and S.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .arrays import Array, Shape, check_index_range, pair


@dataclass(frozen=True, slots=True)
class PoolAxis:
    """``count`` windows of ``taps`` taps along one axis of an image, ``length`` pixels long."""

    length: int
    taps: int
    stride: int
    pad: int
    dilation: int
    count: int

    @classmethod
    def of(
        cls, op: str, length: int, taps: int, stride: int, pad: int, dilation: int, ceil_mode: bool
    ) -> "PoolAxis":
        """Count the windows along one axis, with the rules of ``PoolSize.of``.

        Raises:
            ValueError: ``pad`` is more than half of ``taps``, not even one window fits, or a
                window has no tap on the image.
        """
        if pad > taps // 2:
            raise ValueError(
                f"{op}: padding must be at most half of kernel_size, got padding {pad} for "
                f"kernel_size {taps}"
            )
        extent = (taps - 1) * dilation + 1
        room = length + 2 * pad - extent
        count = -(-room // stride) + 1 if ceil_mode else room // stride + 1
        if ceil_mode and (count - 1) * stride >= length + pad:
            count -= 1
        if count < 1:
            raise ValueError(
                f"{op}: the window is {extent} pixels long but the image, {length} padded by {pad} "
                f"on each side, only {length + 2 * pad}; use a smaller kernel_size or dilation"
            )
        axis = cls(length, taps, stride, pad, dilation, count)
        if dilation > length:  # else one of the taps falls on the image
            first, end = axis.taps_inside()
            if (first >= end).any():
                raise ValueError(
                    f"{op}: with dilation {dilation} and padding {pad} a window has no tap on the "
                    f"image, {length} pixels long; use less of them"
                )
        return axis

    @property
    def extent(self) -> int:
        """Pixels from the first tap of a window to its last."""
        return (self.taps - 1) * self.dilation + 1

    def begin(self) -> Array:
        """Return the pixel of the first tap of each window, negative on the padding: int64."""
        return np.arange(self.count) * self.stride - self.pad

    def taps_inside(self) -> tuple[Array, Array]:
        """Return, for each window, its first tap on the image and the one past its last: int64."""
        begin = self.begin()
        first = np.maximum(-begin + self.dilation - 1, 0) // self.dilation
        return first, np.minimum((self.length - 1 - begin) // self.dilation + 1, self.taps)

    def windows_over(self) -> tuple[Array, Array]:
        """Return, for each pixel, the first window that reaches over it and the one past the last.

        With dilation, such a window need not have a tap on the pixel.
        """
        begin = self.begin()
        return windows_over(self.length, begin, begin + self.extent)


def windows_over(length: int, begin: Array, end: Array) -> tuple[Array, Array]:
    """Return, for each of ``length`` pixels, the first window over it and the one past the last.

    Args:
        length: Number of pixels.
        begin: First pixel of each window, in ascending order.
        end: Pixel past the last of each window, in ascending order.
    """
    pixels = np.arange(length)
    return np.searchsorted(end, pixels, side="right"), np.searchsorted(begin, pixels, side="right")


@dataclass(frozen=True, slots=True)
class PoolSize:
    """Sizes of one pooling: x (N,H,W,C), windows of R x S taps, y (N,P,Q,C)."""

    n: int
    h: int
    w: int
    c: int
    r: int
    s: int
    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    dilation_h: int
    dilation_w: int
    p: int
    q: int

    @classmethod
    def of(
        cls,
        op: str,
        x_shape: Shape,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> "PoolSize":
        """Check a pooling and return its sizes.

        Args:
            op: Name of the op, for the messages.
            x_shape: (N, H, W, C); N may be 0.
            kernel_size: Taps of a window, an int or (vertical, horizontal), >= 1.
            stride: Step of the window in pixels, an int or (vertical, horizontal), >= 1; None for
                ``kernel_size``.
            padding: Pixels added on each side, an int or (vertical, horizontal), from 0 to half
                of ``kernel_size``, rounded down.
            dilation: Distance of the taps in pixels, an int or (vertical, horizontal), >= 1.
            ceil_mode: Whether to add a last window that runs over the edge, so that no pixel is
                left out. It must start on the image or on the padding above or to the left of
                it (PyTorch's rule).

        Raises:
            TypeError: kernel_size, stride, padding or dilation is not an int or a pair of ints.
            ValueError: One of them is out of range, H, W or C is 0, the window does not fit the
                padded image or has no tap on it, or an array, a window or a side of the padded
                image would hold more than 2**31 - 1 elements.
        """
        if len(x_shape) != 4:
            raise ValueError(f"{op}: x (N, H, W, C) must have 4 axes, got {tuple(x_shape)}")
        window = pair(op, "kernel_size", kernel_size, least=1)
        steps = window if stride is None else pair(op, "stride", stride, least=1)
        pads = pair(op, "padding", padding, least=0)
        distances = pair(op, "dilation", dilation, least=1)
        return cls._of(op, tuple(x_shape), window, steps, pads, distances, bool(ceil_mode))

    @classmethod
    @lru_cache(maxsize=1024)
    def _of(
        cls,
        op: str,
        x_shape: Shape,
        window: tuple[int, int],
        steps: tuple[int, int],
        pads: tuple[int, int],
        distances: tuple[int, int],
        ceil_mode: bool,
    ) -> "PoolSize":
        n, h, w, c = x_shape
        if min(h, w, c) < 1:
            raise ValueError(
                f"{op}: x (N, C, H, W) {(n, c, h, w)} is empty; only N, the batch, may be 0"
            )
        rows = PoolAxis.of(op, h, window[0], steps[0], pads[0], distances[0], ceil_mode)
        columns = PoolAxis.of(op, w, window[1], steps[1], pads[1], distances[1], ceil_mode)
        size = cls(n, h, w, c, *window, *steps, *pads, *distances, rows.count, columns.count)
        check_index_range(
            op,
            x=n * h * w * c,
            y=n * size.p * size.q * c,
            kernel_size=size.window_cells,
            padded_height=h + 2 * size.pad_h,
            padded_width=w + 2 * size.pad_w,
        )
        return size

    @property
    def x_shape(self) -> Shape:
        """(N, H, W, C)."""
        return (self.n, self.h, self.w, self.c)

    @property
    def y_shape(self) -> Shape:
        """(N, P, Q, C)."""
        return (self.n, self.p, self.q, self.c)

    @property
    def window_cells(self) -> int:
        """Taps of one window, R * S."""
        return self.r * self.s

    @property
    def vertical(self) -> PoolAxis:
        """The windows from top to bottom."""
        return PoolAxis(self.h, self.r, self.stride_h, self.pad_h, self.dilation_h, self.p)

    @property
    def horizontal(self) -> PoolAxis:
        """The windows from left to right."""
        return PoolAxis(self.w, self.s, self.stride_w, self.pad_w, self.dilation_w, self.q)

    @property
    def flops(self) -> int:
        """Additions or comparisons of one forward or backward, taps on the padding counted."""
        return self.n * self.p * self.q * self.c * self.window_cells

    def bytes(self, itemsize: int, argmax_itemsize: int = 0) -> int:
        """Least DRAM traffic of one forward or backward: |x| + |y| + |argmax|, each moved once."""
        y = self.n * self.p * self.q * self.c
        return itemsize * self.n * self.h * self.w * self.c + (itemsize + argmax_itemsize) * y
