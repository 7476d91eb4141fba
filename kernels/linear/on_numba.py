"""linear on the CPU: a 1 x 1 convolution of one image, M pixels wide."""

import numpy as np

from ..conv2d import Conv2dSize
from ..conv2d import on_numba as conv2d


def fprop(x, w, bias, y):
    if x.size and w.size:
        x, w = _dense(x, w)
        bias = None if bias is None else np.ascontiguousarray(bias)
        conv2d.fprop(x, w, bias, y, _size(x, w))
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


def _dense(a, b):
    return np.ascontiguousarray(a), np.ascontiguousarray(b)


def _size(x, w):
    (m, c), k = x.shape, len(w)
    one, none = (1, 1), (0, 0, 0, 0)
    return Conv2dSize(1, 1, m, c, k, *one, *one, *none, *one, 1)
