"""avg_pool2d in Numba: one line (n, row) a turn, gathered pixel by pixel in vectors of channels.

Tables say what a pixel gathers: in the forward pass the pixels of its window, in the backward
pass the windows over it, in the order in which they are added.
"""

from functools import lru_cache

import numpy as np
from numba import prange

from ..cpu.jit import parallel_jit
from ..cpu.pixels import averaged, fetch, runs, shared
from ..pooling_window import windows_over

MOST_FETCHED = 1 << 12  # elements, while one window is averaged


def forward(x, y, windows):
    n, h, w, c = x.shape
    tables = _pixels(windows, (h, w, c), x.dtype.name)
    _average(x.reshape(-1), y.reshape(-1), *tables, n, (h * w * c, w * c, c))


def backward(grad_y, grad_x, windows):
    n, h, w, c = grad_x.shape
    tables = _windows(windows, (h, w, c), grad_x.dtype.name)
    _, p, q, _ = grad_y.shape
    _spread(grad_y.reshape(-1), grad_x.reshape(-1), *tables, n, (p * q * c, c))


@lru_cache
def _pixels(windows, image, dtype):
    """Return the tables of the rows and of the columns of each window, and the divisors."""
    rows, columns, divisors = windows.geometry()
    _, width, channels = image
    tables = *_table(rows, width * channels, 0), *_table(columns, channels, 0)
    return *tables, divisors.astype(dtype).reshape(-1)


@lru_cache
def _windows(windows, image, dtype):
    """Return the tables of the rows and columns of windows over each pixel, and the divisors."""
    rows, columns, divisors = windows.geometry()
    height, width, channels = image
    count = columns.shape[1]
    tables = (
        *_table(windows_over(height, *rows), count * channels, count),
        *_table(windows_over(width, *columns), channels, 1),
    )
    return *tables, divisors.astype(dtype).reshape(-1)


def _table(spans, step, number_step):
    """Return the table of the integers from first[i] to end[i] - 1, and where each i begins."""
    first, end = spans
    owner, entries = runs(first, end)
    starts = np.searchsorted(owner, np.arange(len(first) + 1))
    return np.stack([entries * step, entries * number_step], axis=1), starts


@parallel_jit
def _average(x, y, rows, row_starts, columns, column_starts, divisors, images, sizes):
    p_y, q_y = len(row_starts) - 1, len(column_starts) - 1
    image_size, row_size, channels = sizes
    share = image_size // max(1, p_y * q_y)
    if share > MOST_FETCHED:  # a window long enough for the CPU to foresee what it needs
        share = 0
    for line in prange(images * p_y):
        n, p = divmod(np.int64(line), p_y)
        first, in_rows = n * image_size, (rows, row_starts[p], row_starts[p + 1])
        coming = first + rows[row_starts[p + 1] - 1, 0] + row_size  # what the next line adds
        for q in range(q_y):
            fetch(x, coming + q * share, share)
            in_columns = columns, column_starts[q], column_starts[q + 1]
            number = p * q_y + q
            to = (n * p_y * q_y + number) * channels
            averaged(x, first, in_rows, in_columns, divisors, number, channels, y, to)


@parallel_jit
def _spread(grad_y, grad_x, rows, row_starts, columns, column_starts, divisors, images, sizes):
    height, width = len(row_starts) - 1, len(column_starts) - 1
    image_size, channels = sizes
    for line in prange(images * height):
        n, i = divmod(np.int64(line), height)
        first, in_rows = n * image_size, (rows, row_starts[i], row_starts[i + 1])
        for j in range(width):
            to = ((n * height + i) * width + j) * channels
            in_columns = columns, column_starts[j], column_starts[j + 1]
            shared(grad_y, first, in_rows, in_columns, divisors, channels, grad_x, to)
