"""max_pool2d in Numba: one line (n, row) a turn, pixel by pixel, vectorized over the channels."""

import numpy as np
from numba import prange

from ..cpu.jit import jit, parallel_jit
from ..cpu.pixels import largest, reward


def forward(x, y, argmax, size):
    rows, columns = _inside(size.vertical), _inside(size.horizontal)
    cells = max(rows[2] - rows[1]) * max(columns[2] - columns[1])  # of a window, on the image
    geometry = np.array([size.h, size.w, size.dilation_h, size.dilation_w, size.s, cells])
    _forward(x.reshape(-1), y.reshape(-1), argmax.reshape(-1), rows, columns, geometry, *y.shape)


def backward(grad_y, argmax, grad_x, size):
    rows = np.stack([size.vertical.begin(), *size.vertical.taps_inside()])
    over = np.stack(size.vertical.windows_over())
    columns = _inside(size.horizontal)
    geometry = np.array([size.p, size.q, size.dilation_h, size.dilation_w, size.s])
    flat = (a.reshape(-1) for a in (grad_y, argmax, grad_x))
    _backward(*flat, rows, over, columns, geometry, *grad_x.shape)


def indices(argmax, positions, size):
    rows, columns = (
        (axis.begin(), axis.dilation, axis.length) for axis in (size.vertical, size.horizontal)
    )
    _indices(argmax, positions, rows, columns, size.s)


def _inside(axis):
    """Return, for each window, its first pixel, its first tap on the image, the one past its last."""
    return np.stack([axis.begin(), *axis.taps_inside()])


@parallel_jit
def _forward(x, y, argmax, rows, columns, geometry, images, p_y, q_y, channels):
    height, width, dilation_h, dilation_w, taps_s, cells = geometry
    offsets, taps = np.empty(cells, np.int64), np.empty(cells, np.int64)
    for line in prange(images * p_y):
        n, p = divmod(np.int64(line), p_y)
        top = (n * height + rows[0, p]) * width
        count = s_first = s_end = 0
        for q in range(q_y):
            if s_first != columns[1, q] or s_end != columns[2, q]:  # at the edges of the image
                s_first, s_end = columns[1, q], columns[2, q]
                count = 0
                for r in range(rows[1, p], rows[2, p]):
                    for s in range(s_first, s_end):
                        offsets[count] = (r * dilation_h * width + s * dilation_w) * channels
                        taps[count] = r * taps_s + s
                        count += 1
            first = (top + columns[0, q]) * channels
            to = ((n * p_y + p) * q_y + q) * channels
            largest(x, first, offsets, taps, count, channels, y, argmax, to)


@parallel_jit
def _backward(grad_y, argmax, grad_x, rows, over, columns, geometry, images, height, width, channels):
    p_y, q_y, dilation_h, dilation_w, taps_s = geometry
    for line in prange(images * height):
        n, i = divmod(np.int64(line), height)
        begin = (n * height + i) * width * channels
        grad_x[begin : begin + width * channels] = 0
        for p in range(over[0, i], over[1, i]):
            r, rest = divmod(i - rows[0, p], dilation_h)
            if rest:
                continue
            for q in range(q_y):
                first = ((n * p_y + p) * q_y + q) * channels
                s_first, s_end = columns[1, q], columns[2, q]
                to = begin + (columns[0, q] + s_first * dilation_w) * channels
                tap, count, step = r * taps_s + s_first, s_end - s_first, dilation_w * channels
                reward(grad_y, argmax, first, tap, count, channels, grad_x, to, step)


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
