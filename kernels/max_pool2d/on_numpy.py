"""max_pool2d in NumPy: the definition, tap by tap. Read this first."""

import numpy as np


def forward(x, y, argmax, size):
    # So that a window of nothing but -inf is won by its first cell on the image.
    first_r, first_s = size.vertical.taps_inside()[0], size.horizontal.taps_inside()[0]
    argmax[...] = (first_r[:, np.newaxis] * size.s + first_s)[..., np.newaxis]
    y[...] = -np.inf
    for tap, window in _taps(_pad(x, size, -np.inf), size):
        wins = (window > y) | np.isnan(window)
        np.copyto(y, window, where=wins)
        argmax[wins] = tap


def backward(grad_y, argmax, grad_x, size):
    padded = _pad(np.zeros_like(grad_x), size, 0)
    for tap, window in _taps(padded, size):
        window += np.where(argmax == tap, grad_y, 0)
    grad_x[...] = padded[:, size.pad_h :, size.pad_w :][:, : size.h, : size.w]


def indices(argmax, positions, size):
    r, s = np.divmod(argmax.astype(np.int64), size.s)
    row = size.vertical.begin()[:, np.newaxis, np.newaxis] + r * size.dilation_h
    column = size.horizontal.begin()[:, np.newaxis] + s * size.dilation_w
    positions[...] = row * size.w + column


def _pad(x, size, value):
    """Pad as far as the windows reach; ceil_mode may need more than pad, or less."""
    pads = (
        (axis.pad, max(0, int(axis.begin()[-1]) + axis.extent - axis.length))
        for axis in (size.vertical, size.horizontal)
    )
    return np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=value)


def _taps(padded, size):
    """Yield (r*S + s, view of the padded image that tap (r, s) of the windows touches)."""
    for r in range(size.r):
        for s in range(size.s):
            top, left = r * size.dilation_h, s * size.dilation_w
            rows = slice(top, top + (size.p - 1) * size.stride_h + 1, size.stride_h)
            cols = slice(left, left + (size.q - 1) * size.stride_w + 1, size.stride_w)
            yield r * size.s + s, padded[:, rows, cols]
