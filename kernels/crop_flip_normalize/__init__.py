"""Augmentation of uint8 images where they are used, in one pass: the contract of every backend.

    y[n,c,p,q] = (x[n,c,row,column] - offset[c]) * scale[c]
    row = top[n] + p,    column = left[n] + (Q - 1 - q if flip[n] else q)

with x = 0, black, outside of the image: padding, a crop, a mirror image and normalization, as in
Krizhevsky, Sutskever, Hinton 2012. x is converted to the dtype of offset; difference and product
are rounded once each, so that all backends give the same bits. They are those of the transforms
``RandomCrop``, ``RandomFlip``, ``Normalize`` one after the other with top and left the drawn
corner minus the padding, offset = 255 * mean and scale = 1 / (255 * std), rounded from float64.
"""

from typing import Any

import numpy as np

from .. import layout
from ..arrays import FLOATS, Array, check_floats, check_index_range, check_layout, empty, pair
from ..backend import implementation

TOP, LEFT, FLIP = range(3)
COLUMNS = 3


def forward(
    x: Array,
    placement: Array,
    offset: Array,
    scale: Array,
    size: int | tuple[int, int] | None = None,
    dtype: Any = None,
) -> Array:
    """Cut a window out of each image, mirror it where asked, and normalize it.

    Args:
        x: Images, (N, C, H, W), uint8, any strides; channels-last memory is not copied.
        placement: int32 (N, 3), C-contiguous, columns TOP and LEFT, the window's corner in the
            image (any number: outside of the image is black), and FLIP: not 0 to mirror the
            window left to right.
        offset: (C,), float32 or float64, C-contiguous.
        scale: (C,), dtype of ``offset``, C-contiguous.
        size: (P, Q) of the windows, or one number for both; None: (H, W).
        dtype: Of the result: that of ``offset`` (None), or bfloat16, rounded from float32.

    Returns:
        (N, C, P, Q), the view of C-contiguous (N, P, Q, C) memory.

    Raises:
        TypeError: A dtype is not as above, or backends differ.
        ValueError: A shape is not as above, images have no pixels, or ``size`` is below 1.
    """
    n, c, h, w = _shape(x)
    if getattr(placement, "dtype", None) != np.int32:
        raise TypeError(
            "crop_flip_normalize: placement must be an int32 array (top, left, flip), got "
            f"{getattr(placement, 'dtype', type(placement).__name__)}"
        )
    check_layout("crop_flip_normalize", "placement", placement, (n, COLUMNS))
    check_floats("crop_flip_normalize", offset=offset, scale=scale)
    if offset.dtype not in FLOATS:
        raise TypeError("crop_flip_normalize: offset and scale must be float32 or float64")
    check_layout("crop_flip_normalize", "offset", offset, (c,))
    check_layout("crop_flip_normalize", "scale", scale, (c,))
    p, q = (h, w) if size is None else pair("crop_flip_normalize", "size", size, least=1)
    check_index_range("crop_flip_normalize", x=n * h * w * c, y=n * p * q * c)
    y = empty(x, (n, p, q, c), dtype or offset.dtype)
    check_floats("crop_flip_normalize", result=y)
    if y.dtype != offset.dtype and (y.dtype in FLOATS or offset.dtype != np.float32):
        raise TypeError(
            f"crop_flip_normalize: a result of {y.dtype} needs offset and scale of "
            f"{y.dtype if y.dtype in FLOATS else 'float32'}, they are {offset.dtype}"
        )
    kernel = implementation(__name__, x, placement, offset, scale)
    kernel.forward(layout.channels_last(x), placement, offset, scale, y)
    return layout.channels_first(y)


def _shape(x: Array) -> tuple[int, int, int, int]:
    if getattr(x, "dtype", None) != np.uint8:
        raise TypeError(
            "crop_flip_normalize: x must be a uint8 array, got "
            f"{getattr(x, 'dtype', type(x).__name__)}"
        )
    if x.ndim != 4 or x.shape[2] * x.shape[3] == 0:
        raise ValueError(
            "crop_flip_normalize: x must be (N, C, H, W) with pixels, got shape "
            f"{tuple(x.shape)}; memory (N, H, W, C) is passed as x.transpose(0, 3, 1, 2)"
        )
    return x.shape
