"""avg_pool2d in Numba: one line (n, row) a task, vectorized over the channels."""

import numpy as np
from numba import prange

from ..cpu.jit import jit, parallel_jit
from ..pooling_window import windows_over


def forward(x, y, windows):
    rows, columns, divisors = windows.geometry()
    _average(x, y, rows, columns, divisors.astype(y.dtype))


def backward(grad_y, grad_x, windows):
    rows, columns, divisors = windows.geometry()
    p_over, q_over = windows_over(grad_x.shape[1], *rows), windows_over(grad_x.shape[2], *columns)
    _spread(grad_y, grad_x, p_over, q_over, divisors.astype(grad_y.dtype))


@parallel_jit
def _average(x, y, rows, columns, divisors):
    images, p_y, q_y = y.shape[:3]
    for line in prange(images * p_y):
        n, p = divmod(np.int64(line), p_y)
        for q in range(q_y):
            y[n, p, q] = 0
            for i in range(rows[0, p], rows[1, p]):
                for j in range(columns[0, q], columns[1, q]):
                    _add(x[n, i, j], y[n, p, q])
            _divide(y[n, p, q], divisors[p, q])


@jit
def _add(pixel, total):
    for c in range(len(total)):
        total[c] += pixel[c]


@jit
def _divide(total, divisor):
    for c in range(len(total)):
        total[c] /= divisor


@parallel_jit
def _spread(grad_y, grad_x, p_over, q_over, divisors):
    images, height, width = grad_x.shape[:3]
    p_first, p_end = p_over
    q_first, q_end = q_over
    for line in prange(images * height):
        n, i = divmod(np.int64(line), height)
        grad_x[n, i] = 0
        for p in range(p_first[i], p_end[i]):
            for j in range(width):
                for q in range(q_first[j], q_end[j]):
                    _add_share(grad_y[n, p, q], divisors[p, q], grad_x[n, i, j])


@jit
def _add_share(grad, divisor, pixel):
    for c in range(len(pixel)):
        pixel[c] += grad[c] / divisor
