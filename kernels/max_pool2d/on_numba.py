"""max_pool2d in Numba: one line (n, row) a turn, gathered pixel by pixel in vectors of channels.

Tables say what a pixel gathers: in the forward pass the taps of its window, in the backward pass
the windows with a tap on it, in the order in which they are added.
"""

from functools import lru_cache

import numpy as np
from numba import prange

from ..cpu.jit import jit, parallel_jit
from ..cpu.pixels import fetch, largest, rewarded, runs


def forward(x, y, argmax, size):
    n, h, w, c = x.shape
    rows, row_starts = _taps(size.vertical, w * c, size.s)
    columns, column_starts = _taps(size.horizontal, c, 1)
    flat = (a.reshape(-1) for a in (x, y, argmax))
    sizes = (h * w * c, w * c, size.stride_h * w * c, c)
    _forward(*flat, rows, row_starts, columns, column_starts, n, sizes)


def backward(grad_y, argmax, grad_x, size):
    n, p, q, c = grad_y.shape
    rows, row_starts = _windows(size.vertical, q * c, size.s)
    columns, column_starts = _windows(size.horizontal, c, 1)
    flat = (a.reshape(-1) for a in (grad_y, argmax, grad_x))
    _backward(*flat, rows, row_starts, columns, column_starts, n, (p * q * c, q * c, c))


def indices(argmax, positions, size):
    rows, columns = (
        (axis.begin(), axis.dilation, axis.length) for axis in (size.vertical, size.horizontal)
    )
    _indices(argmax, positions, rows, columns, size.s)


@lru_cache
def _taps(axis, step, number_step):
    """Return the table of (pixel, tap) by window, in steps, and where each window begins in it."""
    window, tap, pixel = _pairs(axis)
    table = np.stack([pixel * step, tap * number_step], axis=1)
    return table, np.searchsorted(window, np.arange(axis.count + 1))


@lru_cache
def _windows(axis, step, number_step):
    """Return the table of (window, tap) by pixel, in steps, and where each pixel begins in it."""
    window, tap, pixel = _pairs(axis)
    order = np.argsort(pixel, kind="stable")
    table = np.stack([window * step, tap * number_step], axis=1)[order]
    return table, np.searchsorted(pixel[order], np.arange(axis.length + 1))


def _pairs(axis):
    """Return, for each tap on the image, its window, its number in it and its pixel."""
    window, tap = runs(*axis.taps_inside())
    return window, tap, axis.begin()[window] + tap * axis.dilation


@parallel_jit
def _forward(x, y, argmax, rows, row_starts, columns, column_starts, images, sizes):
    p_y, q_y = len(row_starts) - 1, len(column_starts) - 1
    image_size, row_size, coming_size, channels = sizes
    share = coming_size // q_y
    for line in prange(images * p_y):
        n, p = divmod(np.int64(line), p_y)
        first = n * image_size
        in_rows = rows, row_starts[p], row_starts[p + 1]
        coming = first + rows[row_starts[p + 1] - 1, 0] + row_size  # what the next line adds
        for q in range(q_y):
            fetch(x, coming + q * share, share)
            in_columns = columns, column_starts[q], column_starts[q + 1]
            to = ((n * p_y + p) * q_y + q) * channels
            largest(x, first, in_rows, in_columns, channels, y, argmax, to)


@parallel_jit
def _backward(grad_y, argmax, grad_x, rows, row_starts, columns, column_starts, images, sizes):
    height, width = len(row_starts) - 1, len(column_starts) - 1
    image_size, row_size, channels = sizes
    share = row_size // width
    for line in prange(images * height):
        n, i = divmod(np.int64(line), height)
        first = n * image_size
        in_rows = rows, row_starts[i], row_starts[i + 1]
        coming = first + rows[max(row_starts[i + 1], 1) - 1, 0] + row_size
        for j in range(width):
            fetch(grad_y, coming + j * share, share)
            fetch(argmax, coming + j * share, share)
            to = ((n * height + i) * width + j) * channels
            in_columns = columns, column_starts[j], column_starts[j + 1]
            rewarded(grad_y, argmax, first, in_rows, in_columns, channels, grad_x, to)


@jit
def _indices(argmax, positions, rows, columns, taps_s):
    images, p_y, q_y, channels = argmax.shape
    top, dilation_h, _ = rows
    left, dilation_w, width = columns
    for n in range(images):
        for p in range(p_y):
            for q in range(q_y):
                for c in range(channels):
                    r, s = divmod(np.int64(argmax[n, p, q, c]), taps_s)
                    row, column = top[p] + r * dilation_h, left[q] + s * dilation_w
                    positions[n, p, q, c] = row * width + column
