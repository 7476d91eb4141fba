"""conv2d in Numba: windows gathered to rows of a matrix (im2col), then one matrix product.

The rows are gathered in chunks that stay in cache, whose size depends on the shapes alone. wgrad
adds the chunks of each of a few parts in order, and then the parts. Grouped convolutions, whose
matrices would be slivers, run as direct loops.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import prange

from ..cpu.blas import for_each, scratch
from ..cpu.jit import jit, parallel_jit

CHUNK_BYTES = 1 << 20, 4 << 20  # of gathered windows, least and most: they stay in cache
CHUNKS = 8  # wanted, so that threads share the work evenly
WGRAD_PARTS = 8  # each holds a sum of the size of w


def fprop(x, w, bias, y, size):
    if size.groups > 1:
        _fprop_grouped(x, _filters_innermost(w), y, _geometry(size), size.groups)
        if bias is not None:
            y += bias
        return
    filters = w.reshape(size.k, -1).T
    windows = _windows_of_x(x, size)

    def chunk(i):
        rows, gathered = windows.chunk(i)
        result = y.reshape(-1, size.k)[rows]
        np.matmul(gathered, filters, out=result)
        if bias is not None:
            result += bias

    for_each(chunk, windows.chunks)


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
            windows = _Windows(grad_y, p_offsets, q_offsets, 1, 1, height, width)
            _dgrad_phase(windows, rotated.reshape(-1, size.c), pixels)


def _dgrad_phase(windows, rotated, pixels):
    in_place = pixels.flags.c_contiguous
    target = pixels if in_place else np.empty(pixels.shape, pixels.dtype)

    def chunk(i):
        rows, gathered = windows.chunk(i)
        np.matmul(gathered, rotated, out=target.reshape(-1, rotated.shape[1])[rows])

    for_each(chunk, windows.chunks)
    if not in_place:
        pixels[...] = target


def wgrad(grad_y, x, grad_w, size):
    if size.groups > 1:
        _wgrad_grouped(grad_y, x, grad_w, _geometry(size), size.groups)
        return
    windows = _windows_of_x(x, size)
    cuts = np.linspace(0, windows.chunks, min(WGRAD_PARTS, windows.chunks) + 1).astype(int)
    sums = np.zeros((max(1, len(cuts) - 1), size.k, windows.taps), grad_w.dtype)

    def part(i):
        for j in range(cuts[i], cuts[i + 1]):
            rows, gathered = windows.chunk(j)
            sums[i] += grad_y.reshape(-1, size.k)[rows].T @ gathered

    for_each(part, len(cuts) - 1)
    total = grad_w.reshape(size.k, -1)
    total[...] = sums[0]
    for partial in sums[1:]:
        total += partial


def _windows_of_x(x, size):
    row_offsets = np.arange(size.r) * size.dilation_h - size.pad_top
    col_offsets = np.arange(size.s) * size.dilation_w - size.pad_left
    return _Windows(x, row_offsets, col_offsets, size.stride_h, size.stride_w, size.p, size.q)


@dataclass
class _Windows:
    """The windows of an image batch as rows of a matrix, gathered chunk by chunk."""

    image: Any
    row_offsets: Any  # of each tap, from the corner i * row_step, j * col_step
    col_offsets: Any
    row_step: int
    col_step: int
    height: int  # windows in a column, and in a line
    width: int

    def __post_init__(self):
        self.shape = len(self.row_offsets), len(self.col_offsets), self.image.shape[3]
        self.taps = int(np.prod(self.shape))
        lines = self.image.shape[0] * self.height
        line_bytes = max(1, self.width * self.taps * self.image.itemsize)
        least, most = (max(1, size // line_bytes) for size in CHUNK_BYTES)
        self.lines = min(max(lines // CHUNKS, least), most)  # of a chunk
        self.chunks = -(-lines // self.lines)

    def chunk(self, i):
        """Return the rows of chunk i and their windows, in memory that the next chunk reuses."""
        first = i * self.lines
        count = min(self.lines, self.image.shape[0] * self.height - first)
        windows = scratch((count, self.width, *self.shape), self.image.dtype)
        offsets = (self.row_offsets, self.col_offsets)
        _gather(self.image, *offsets, self.row_step, self.col_step, self.height, first, windows)
        rows = slice(first * self.width, (first + count) * self.width)
        return rows, windows.reshape(-1, self.taps)


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
