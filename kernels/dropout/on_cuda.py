"""dropout on CUDA: launches of dropout.cu; contiguous and channels-last memory without a copy."""

import math

import numpy as np

from .. import layout
from ..cuda.launch import FLOAT_TYPES, Kernel, ceil_div
from ..cuda.packs import PACK_BYTES

_BLOCK = 256
_RUN = 4  # elements of a thread: the words of one Philox counter

_CONTIGUOUS = Kernel(
    __file__, "dropout.cu", "dropout_apply_contiguous", block=_BLOCK, STORAGE=FLOAT_TYPES
)
_CHANNELS_LAST = Kernel(
    __file__, "dropout.cu", "dropout_apply_channels_last", block=_BLOCK, STORAGE=FLOAT_TYPES
)


def forward(x, p, ticket, y):
    _apply(x, p, layout.contiguous(ticket), y)


def backward(grad_y, p, ticket, grad_x):
    _apply(grad_y, p, layout.contiguous(ticket), grad_x)


def _apply(x, p, ticket, y):
    # u >= p, with u = bits * 2**-24, exactly.
    threshold, scale = math.ceil(p * 2**24), 1 / (1 - p) if p < 1 else 0.0
    if y.flags.c_contiguous:
        x = layout.contiguous(x)
        grid = ceil_div(y.size, _BLOCK * min(_RUN, PACK_BYTES // y.itemsize))
        _CONTIGUOUS.launch(grid, x, ticket, y, y.size, threshold, scale, STORAGE=y.dtype)
    elif y.ndim > 2 and np.moveaxis(y, 1, -1).flags.c_contiguous:
        n, c, *image = y.shape
        size = {"n": n, "pixels": math.prod(image), "c": c}
        grid = ceil_div(n * c * ceil_div(size["pixels"], _RUN), _BLOCK)
        x = layout.channels_last(x)
        _CHANNELS_LAST.launch(grid, x, ticket, y, size, threshold, scale, STORAGE=y.dtype)
    else:
        x = layout.copy(x, order="C")
        in_order = np.empty_like(x)
        _apply(x, p, ticket, in_order)
        layout.fill(y, in_order)
