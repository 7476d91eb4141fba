"""layout on the CPU: matrices transposed in registers, other copies by NumPy, on all threads.

N C H W <-> N H W C is the transposition of a matrix for each image. A thread makes a block of the
result that stays in its L1 cache, from squares of lanes x lanes elements, which are read and
written in whole vectors. Conversions between floats are a parallel loop.
"""

from functools import lru_cache

import numpy as np
from numba import prange

from ..arrays import FLOATS
from ..cpu.assemble import address
from ..cpu.flat import flat, lie_alike
from ..cpu.jit import parallel_jit
from ..cpu.lanes import LINE_BYTES
from ..cpu.machine import vector_bytes
from ..cpu.streaming import convert_lines, streams, wait_for_stores
from ..cpu.tiles import Transpose
from ..cpu.ufuncs import in_threads
from ..cpu.vector import call_transpose

SMALL = 4096  # elements: NumPy has copied them before a matrix is found
LEAST_SIDE, LEAST_MATRIX = 16, 1024  # elements: NumPy copies thinner and smaller ones sooner
BLOCK_BYTES, WIDTH = 1 << 15, 128  # of the result, that a thread transposes in its L1 cache
PART = 1 << 14  # elements, of one turn of the loop of a conversion


def fill(y, x):
    if y.size < SMALL or np.may_share_memory(x, y):
        np.copyto(y, x, casting="unsafe")
    elif x.dtype == y.dtype and (found := _matrices(y.shape, y.strides, x.strides, y.itemsize)):
        axes, shape = found
        x, y = (z.view(f"u{z.itemsize}").transpose(axes).reshape(shape) for z in (x, y))
        lanes = vector_bytes() // y.itemsize
        past = lanes * y.itemsize == LINE_BYTES and streams(y)
        dtype = "float32" if y.itemsize == 4 else "float64"
        _transpose(y, x, address(Transpose(lanes, dtype, past)), lanes, past)
    elif x.dtype != y.dtype and {x.dtype, y.dtype} <= set(FLOATS) and lie_alike(y, x):
        y, x = flat(y, x)
        _convert(y, x, streams(y))
    else:
        in_threads(_copy, x, out=y)


def _copy(x, out):
    np.copyto(out, x, casting="unsafe")


@lru_cache
def _matrices(shape, y_strides, x_strides, itemsize):
    """Return axes and shape (B, P, Q) of a batch of matrices, if copying x to y transposes these.

    Columns of P elements lie along memory in x, rows of Q elements in y. None if there are none.
    """
    axes = [i for i in range(len(shape)) if shape[i] != 1]
    axes.sort(key=lambda i: -y_strides[i])
    merged = []
    for i in axes:
        length, steps = shape[i], (y_strides[i], x_strides[i])
        if merged and all(a == b * length for a, b in zip(merged[-1][1:], steps, strict=True)):
            length *= merged.pop()[0]
        merged.append((length, *steps))
    if len(merged) == 2:
        merged.insert(0, (1, 0, 0))
    if itemsize not in (4, 8) or len(merged) != 3:
        return None
    (p, _, x_step), (q, y_step, _) = merged[1:]
    if not (x_step == y_step == itemsize and min(p, q) >= LEAST_SIDE and p * q >= LEAST_MATRIX):
        return None
    axes += [i for i in range(len(shape)) if shape[i] == 1]
    return tuple(axes), tuple(length for length, *_ in merged)


@parallel_jit
def _transpose(y, x, code, lanes, past):
    """y[b, p, q] = x[b, p, q], where the rows of y and the columns of x lie along memory."""
    batch, rows, columns = y.shape
    width = min(columns, WIDTH)
    height = max(BLOCK_BYTES // y.itemsize // width // lanes, 1) * lanes
    across, down = -(-columns // width), -(-rows // height)
    to_step, step, item = y.strides[1], x.strides[2], y.itemsize
    ahead = width * step if across > 1 else height * item  # to the block of the next turn
    for task in prange(batch * down * across):
        block, right = divmod(np.int64(task), across)
        image, below = divmod(block, down)
        to, source = y[image, below * height :, right * width :], x[image, below * height :]
        source = source[:, right * width :]
        height_here, width_here = min(height, to.shape[0]), min(width, to.shape[1])
        whole_rows, whole_columns = height_here // lanes * lanes, width_here // lanes * lanes
        for j in range(0, whole_columns, lanes):
            for i in range(0, whole_rows, lanes):
                place = to.ctypes.data + i * to_step + j * item
                start = source.ctypes.data + j * step + i * item
                call_transpose(code, place, to_step, start, step, ahead)
        for i in range(height_here):
            for j in range(whole_columns if i < whole_rows else 0, width_here):
                to[i, j] = source[i, j]
        if past:
            wait_for_stores()


@parallel_jit
def _convert(y, x, past):
    size = np.int64(len(y))
    for part in prange(-(-size // PART)):
        first = np.int64(part) * PART
        end = min(first + PART, size)
        if past:
            first = convert_lines(y, x, first, end)
            wait_for_stores()
        for i in range(np.uint64(first), np.uint64(end)):
            y[i] = x[i]
