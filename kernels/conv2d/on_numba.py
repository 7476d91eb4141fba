"""conv2d in Numba: windows gathered to rows of a matrix (im2col), then one matrix product.

The rows are gathered in chunks that stay in cache; wgrad adds the chunks in order, and their
size depends on the shapes alone. One thread gathers, because BLAS's idle threads spin between the
products, and a second pool of threads would fight them for the cores.
Grouped convolutions, whose matrices would be slivers, run as direct loops.
"""

import numpy as np
from numba import prange

from ..jit import jit, parallel_jit

CHUNK_BYTES = 4 << 20  # of gathered windows: a few L2 caches


def fprop(x, w, bias, y, size):
    if size.groups > 1:
        _fprop_grouped(x, _filters_innermost(w), y, _geometry(size), size.groups)
    else:
        filters = w.reshape(size.k, -1).T
        for rows, windows in _windows_of_x(x, size):
            np.matmul(windows, filters, out=y.reshape(-1, size.k)[rows])
    if bias is not None:
        y += bias


def dgrad(grad_y, w, grad_x, size):
    """Correlate grad_y with the rotated w, once for each phase of the stride.

    The pixels h = phase + i * stride are touched by the same taps r, those for which
    phase + pad - r * dilation is a multiple of the stride, at p = i + that multiple.
    """
    if size.groups > 1:
        _dgrad_grouped(grad_y, _filters_innermost(w), grad_x, _geometry(size), size.groups)
        return
    vertical = _phases(size.h, size.r, size.stride_h, size.pad_top, size.dilation_h)
    horizontal = _phases(size.w, size.s, size.stride_w, size.pad_left, size.dilation_w)
    for top, r_taps, p_offsets, height in vertical:
        for left, s_taps, q_offsets, width in horizontal:
            pixels = grad_x[:, top :: size.stride_h, left :: size.stride_w]
            if not (len(r_taps) and len(s_taps)):
                pixels[...] = 0
                continue
            rotated = w[np.ix_(range(size.k), r_taps, s_taps)].transpose(1, 2, 0, 3)
            rotated = rotated.reshape(-1, size.c)
            result = np.empty((size.n * height * width, size.c), grad_x.dtype)
            for rows, windows in _windows(grad_y, p_offsets, q_offsets, 1, 1, height, width):
                np.matmul(windows, rotated, out=result[rows])
            pixels[...] = result.reshape(pixels.shape)


def wgrad(grad_y, x, grad_w, size):
    if size.groups > 1:
        _wgrad_grouped(grad_y, x, grad_w, _geometry(size), size.groups)
        return
    grad_w[...] = 0
    by_filter = grad_w.reshape(size.k, -1)
    for rows, windows in _windows_of_x(x, size):
        by_filter += grad_y.reshape(-1, size.k)[rows].T @ windows


def _windows_of_x(x, size):
    row_offsets = np.arange(size.r) * size.dilation_h - size.pad_top
    col_offsets = np.arange(size.s) * size.dilation_w - size.pad_left
    return _windows(x, row_offsets, col_offsets, size.stride_h, size.stride_w, size.p, size.q)


def _windows(image, row_offsets, col_offsets, row_step, col_step, height, width):
    """Yield (rows of the result, their windows of ``image`` as a matrix), chunk by chunk."""
    n, channels = image.shape[0], image.shape[3]
    taps = len(row_offsets) * len(col_offsets) * channels
    lines = max(1, CHUNK_BYTES // max(1, width * taps * image.itemsize))
    windows = np.empty((lines, width, len(row_offsets), len(col_offsets), channels), image.dtype)
    for first in range(0, n * height, lines):
        chunk = windows[: min(lines, n * height - first)]
        _gather(image, row_offsets, col_offsets, row_step, col_step, height, first, chunk)
        rows = slice(first * width, (first + len(chunk)) * width)
        yield rows, chunk.reshape(-1, taps)


@jit
def _gather(image, row_offsets, col_offsets, row_step, col_step, height, first, windows):
    """windows[l,j,r,s,c] = image[n, i*row_step + row_offsets[r], j*col_step + ..., c]."""
    lines, width, taps_r, taps_s, channels = windows.shape
    rows, cols = image.shape[1], image.shape[2]
    source, target = image.reshape(-1), windows.reshape(-1)
    for line in range(lines):
        n, i = divmod(first + line, height)
        for j in range(width):
            for r in range(taps_r):
                row = i * row_step + row_offsets[r]
                # Unsigned, so that Numba has no negative index to wrap and vectorizes the copy.
                to = np.uint64(((line * width + j) * taps_r + r) * taps_s * channels)
                for s in range(taps_s):
                    col = j * col_step + col_offsets[s]
                    if 0 <= row < rows and 0 <= col < cols:
                        at = np.uint64(((n * rows + row) * cols + col) * channels)
                        for c in range(np.uint64(channels)):
                            target[to + c] = source[at + c]
                    else:
                        for c in range(np.uint64(channels)):
                            target[to + c] = 0
                    to += np.uint64(channels)


def _phases(length, taps, stride, pad, dilation):
    """Return (first pixel, taps, their offsets in grad_y, number of pixels) of each phase."""
    phases = []
    for phase in range(min(stride, length)):
        distance = phase + pad - np.arange(taps) * dilation
        touching = np.flatnonzero(distance % stride == 0)
        pixels = len(range(phase, length, stride))
        phases.append((phase, touching, distance[touching] // stride, pixels))
    return phases


def _geometry(size):
    strides, pads = (size.stride_h, size.stride_w), (size.pad_top, size.pad_left)
    return np.array([*strides, *pads, size.dilation_h, size.dilation_w])


def _filters_innermost(w):
    """(K, R, S, C/G) -> (R, S, C/G, K), so that the inner loop over filters is contiguous."""
    return np.ascontiguousarray(w.transpose(1, 2, 3, 0))


@parallel_jit
def _fprop_grouped(x, w, y, geometry, groups):
    stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w = geometry
    n_y, p_y, q_y, _ = y.shape
    taps_r, taps_s, group_c = w.shape[:3]
    for line in prange(n_y * p_y):
        n, p = divmod(np.int64(line), p_y)
        for q in range(q_y):
            y[n, p, q] = 0
            for r in range(taps_r):
                i = p * stride_h + r * dilation_h - pad_top
                if i < 0 or i >= x.shape[1]:
                    continue
                for s in range(taps_s):
                    j = q * stride_w + s * dilation_w - pad_left
                    if 0 <= j < x.shape[2]:
                        for c in range(group_c):
                            _add_products(y[n, p, q], x[n, i, j], w[r, s, c], c, groups)


@jit
def _add_products(y, x, w, c, groups):
    """y[k] += x[channel c of the group of k] * w[k]."""
    group_k, group_c = len(y) // groups, len(x) // groups
    if group_k == 1:
        for k in range(len(y)):
            y[k] += x[k * group_c + c] * w[k]
    else:
        for g in range(groups):
            for k in range(g * group_k, (g + 1) * group_k):
                y[k] += x[g * group_c + c] * w[k]


@parallel_jit
def _dgrad_grouped(grad_y, w, grad_x, geometry, groups):
    stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w = geometry
    n_x, h_x, w_x, _ = grad_x.shape
    taps_r, taps_s, group_c, filters = w.shape
    group_k = filters // groups
    for line in prange(n_x * h_x):
        n, i = divmod(np.int64(line), h_x)
        for j in range(w_x):
            grad_x[n, i, j] = 0
            for r in range(taps_r):
                p, rest = divmod(i + pad_top - r * dilation_h, stride_h)
                if rest or p < 0 or p >= grad_y.shape[1]:
                    continue
                for s in range(taps_s):
                    q, rest = divmod(j + pad_left - s * dilation_w, stride_w)
                    if rest or q < 0 or q >= grad_y.shape[2]:
                        continue
                    for g in range(groups):
                        for c in range(group_c):
                            for k in range(g * group_k, (g + 1) * group_k):
                                grad_x[n, i, j, g * group_c + c] += (
                                    grad_y[n, p, q, k] * w[r, s, c, k]
                                )


@parallel_jit
def _wgrad_grouped(grad_y, x, grad_w, geometry, groups):
    stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w = geometry
    filters, taps_r, taps_s, group_c = grad_w.shape
    group_k = filters // groups
    for k in prange(filters):
        first_c = np.int64(k) // group_k * group_c
        grad_w[k] = 0
        for n in range(x.shape[0]):
            for p in range(grad_y.shape[1]):
                for q in range(grad_y.shape[2]):
                    g = grad_y[n, p, q, k]
                    for r in range(taps_r):
                        i = p * stride_h + r * dilation_h - pad_top
                        if i < 0 or i >= x.shape[1]:
                            continue
                        for s in range(taps_s):
                            j = q * stride_w + s * dilation_w - pad_left
                            if 0 <= j < x.shape[2]:
                                for c in range(group_c):
                                    grad_w[k, r, s, c] += g * x[n, i, j, first_c + c]
