"""max_pool2d in Numba: one line (n, row) a task, vectorized over the channels."""

import numpy as np
from numba import prange

from ..cpu.jit import jit, parallel_jit


def forward(x, y, argmax, size):
    rows, columns = (
        (axis.begin(), *axis.taps_inside(), axis.dilation)
        for axis in (size.vertical, size.horizontal)
    )
    _forward(x, y, argmax, rows, columns, size.s)


def backward(grad_y, argmax, grad_x, size):
    rows, columns = (
        (axis.begin(), *axis.windows_over(), axis.dilation)
        for axis in (size.vertical, size.horizontal)
    )
    _backward(grad_y, argmax, grad_x, rows, columns, size.s)


def indices(argmax, positions, size):
    rows, columns = (
        (axis.begin(), axis.dilation, axis.length) for axis in (size.vertical, size.horizontal)
    )
    _indices(argmax, positions, rows, columns, size.s)


@parallel_jit
def _forward(x, y, argmax, rows, columns, taps_s):
    images, p_y, q_y = y.shape[:3]
    top, r_first, r_end, dilation_h = rows
    left, s_first, s_end, dilation_w = columns
    for line in prange(images * p_y):
        n, p = divmod(np.int64(line), p_y)
        for q in range(q_y):
            i = top[p] + r_first[p] * dilation_h
            j = left[q] + s_first[q] * dilation_w
            _begin(x[n, i, j], r_first[p] * taps_s + s_first[q], y[n, p, q], argmax[n, p, q])
            for r in range(r_first[p], r_end[p]):
                i = top[p] + r * dilation_h
                for s in range(s_first[q], s_end[q]):
                    j = left[q] + s * dilation_w
                    _challenge(x[n, i, j], r * taps_s + s, y[n, p, q], argmax[n, p, q])


@jit
def _begin(pixel, tap, best, winner):
    for c in range(len(best)):
        best[c] = pixel[c]
        winner[c] = tap


@jit
def _challenge(pixel, tap, best, winner):
    """Where the pixel beats the best so far, or is NaN, it is the best and ``tap`` the winner."""
    for c in range(len(best)):
        value = pixel[c]
        wins = value > best[c] or value != value
        best[c] = value if wins else best[c]
        winner[c] = tap if wins else winner[c]


@parallel_jit
def _backward(grad_y, argmax, grad_x, rows, columns, taps_s):
    images, height, width = grad_x.shape[:3]
    top, p_first, p_end, dilation_h = rows
    left, q_first, q_end, dilation_w = columns
    for line in prange(images * height):
        n, i = divmod(np.int64(line), height)
        grad_x[n, i] = 0
        for p in range(p_first[i], p_end[i]):
            r, rest = divmod(i - top[p], dilation_h)
            if rest:
                continue
            for j in range(width):
                for q in range(q_first[j], q_end[j]):
                    s, rest = divmod(j - left[q], dilation_w)
                    if rest == 0:
                        tap = r * taps_s + s
                        _reward(grad_y[n, p, q], argmax[n, p, q], tap, grad_x[n, i, j])


@jit
def _reward(grad, winner, tap, pixel):
    """Add the gradient where ``tap`` is the winner."""
    tap = winner.dtype.type(tap)  # compared in the narrow type, which vectorizes
    for c in range(len(pixel)):
        pixel[c] = pixel[c] + grad[c] if winner[c] == tap else pixel[c]


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
