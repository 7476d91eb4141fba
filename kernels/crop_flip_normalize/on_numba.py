"""crop_flip_normalize in Numba: the rows of the results in parallel.

The pixels of a row, in the order of the result, go into a line of bytes; offset and scale are
repeated for each pixel. So that one vectorized loop over the elements of the row computes them.
"""

import numpy as np
from numba import prange

from ..cpu.jit import jit, parallel_jit
from . import FLIP, LEFT, TOP


def forward(x, placement, offset, scale, y):
    q = y.shape[2]
    _forward(x, placement, np.tile(offset, q), np.tile(scale, q), y)


@parallel_jit
def _forward(x, placement, offset, scale, y):
    n, p, q, c = y.shape
    line = np.empty(q * c, np.uint8)
    for task in prange(n * p):
        image, i = divmod(np.int64(task), p)
        row = np.int64(placement[image, TOP]) + i
        line[:] = 0
        if 0 <= row < x.shape[1]:
            left, flip = np.int64(placement[image, LEFT]), placement[image, FLIP] != 0
            _cut(x[image, row], left, flip, line)
        _normalize(line, offset, scale, y[image, i].reshape(-1))


@jit
def _cut(pixels, left, flip, line):
    """Copy the pixels (w, c) of a window that begins at ``left`` into ``line``, where there are."""
    w, c = pixels.shape
    q = len(line) // c
    first, end = max(left, 0), min(left + q, w)
    if not flip:
        source, to = pixels.reshape(-1), (first - left) * c
        for i in range((end - first) * c):
            line[np.uint64(to) + np.uint64(i)] = source[np.uint64(first * c) + np.uint64(i)]
        return
    for column in range(first, end):
        to = np.uint64((q - 1 - (column - left)) * c)
        for k in range(np.uint64(c)):
            line[to + k] = pixels[np.uint64(column), k]


@jit
def _normalize(line, offset, scale, y):
    number = y.dtype.type
    for i in range(len(y)):
        y[i] = (number(line[i]) - offset[i]) * scale[i]
