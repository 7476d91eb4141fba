"""crop_flip_normalize in Numba: the rows of the results in parallel."""

import numpy as np
from numba import prange

from ..cpu.jit import parallel_jit
from . import FLIP, LEFT, TOP


@parallel_jit
def _forward(x, placement, offset, scale, y):
    n, p, q, c = y.shape
    h, w = x.shape[1:3]
    number = y.dtype.type
    for task in prange(n * p):
        image, i = divmod(np.int64(task), p)
        row, left = i + placement[image, TOP], np.int64(placement[image, LEFT])
        flip = placement[image, FLIP] != 0
        for j in range(q):
            column = left + (q - 1 - j if flip else j)
            inside = 0 <= row < h and 0 <= column < w
            for k in range(c):
                pixel = number(x[image, row, column, k]) if inside else number(0)
                y[image, i, j, k] = (pixel - offset[k]) * scale[k]


def forward(x, placement, offset, scale, y):
    _forward(x, placement, offset, scale, y)
