"""conv2d in NumPy: the definition, tap by tap. Read this first."""

import numpy as np

from ..batch_norm.on_numpy import activate, moments


def fprop(x, w, bias, y, size, residual=None, activation=None):
    y[...] = 0 if bias is None else bias
    for r, s, window in _taps(_pad(x, size), size):
        for k, c in _groups(size):
            y[..., k] += window[..., c] @ w[k, r, s].T
    activate(y, residual, activation == "relu", y)


def fprop_moments(x, w, y, size):
    fprop(x, w, None, y, size)
    return moments(y.reshape(-1, size.k))


def dgrad(grad_y, w, grad_x, size, addend=None, below=None):
    padded = _pad(np.zeros_like(grad_x), size)
    for r, s, window in _taps(padded, size):
        for k, c in _groups(size):
            window[..., c] += grad_y[..., k] @ w[k, r, s]
    top, left = size.pad_top, size.pad_left
    grad_x[...] = padded[:, top : top + size.h, left : left + size.w]
    if addend is not None:
        grad_x += addend


def wgrad(grad_y, x, grad_w, size):
    for r, s, window in _taps(_pad(x, size), size):
        for k, c in _groups(size):
            grad_w[k, r, s] = np.tensordot(
                grad_y[..., k], window[..., c], axes=((0, 1, 2), (0, 1, 2))
            )


def _pad(x, size):
    vertical, horizontal = (size.pad_top, size.pad_bottom), (size.pad_left, size.pad_right)
    return np.pad(x, ((0, 0), vertical, horizontal, (0, 0)))


def _taps(padded, size):
    """Yield (r, s, view of the padded image that tap (r, s) of the filter touches)."""
    for r in range(size.r):
        for s in range(size.s):
            top, left = r * size.dilation_h, s * size.dilation_w
            rows = slice(top, top + (size.p - 1) * size.stride_h + 1, size.stride_h)
            cols = slice(left, left + (size.q - 1) * size.stride_w + 1, size.stride_w)
            yield r, s, padded[:, rows, cols]


def _groups(size):
    """Yield (filters, channels) of each group."""
    k, c = size.k // size.groups, size.c // size.groups
    for g in range(size.groups):
        yield slice(g * k, (g + 1) * k), slice(g * c, (g + 1) * c)
