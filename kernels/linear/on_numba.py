"""linear on the CPU: a 1 x 1 convolution of one image, M pixels wide."""

import numpy as np

from ..conv2d import Conv2dSize
from ..conv2d import on_numba as conv2d


def fprop(x, w, bias, y):
    if x.size and w.size:
        conv2d.fprop(*_dense(x, w, bias), y, _size(x, w))
    else:
        y[...] = 0 if bias is None else bias


def dgrad(grad_y, w, grad_x):
    if grad_y.size and w.size:
        conv2d.dgrad(*_dense(grad_y, w), grad_x, _size(grad_x, w))
    else:
        grad_x[...] = 0


def wgrad(grad_y, x, grad_w):
    if grad_y.size and x.size:
        conv2d.wgrad(*_dense(grad_y, x), grad_w, _size(x, grad_w))
    else:
        grad_w[...] = 0


def _dense(*arrays):
    return [array if array is None else np.ascontiguousarray(array) for array in arrays]


def _size(x, w):
    (m, c), k = x.shape, len(w)
    return Conv2dSize(1, 1, m, c, k, *[1] * 4, *[0] * 4, 1, 1, 1)
