"""dropout in Numba: random words are made where they are used, in registers."""

import math

import numpy as np
from numba import prange

from ..cpu.jit import parallel_jit
from ..cpu.philox import drop_pixels, drop_run

TILE, LEAST_TILE = 1 << 13, 32  # elements that lie together, of how many pixels at least


def forward(x, p, ticket, y):
    _apply(x, p, ticket, y)


def backward(grad_y, p, ticket, grad_x):
    _apply(grad_y, p, ticket, grad_x)


def _apply(x, p, ticket, y):
    if y.flags.c_contiguous:
        n, channels, pixels = 1, 1, y.size
    elif y.ndim > 2 and np.moveaxis(y, 1, -1).flags.c_contiguous:
        x, y = np.moveaxis(x, 1, -1), np.moveaxis(y, 1, -1)
        n, channels, pixels = y.shape[0], y.shape[-1], math.prod(y.shape[1:-1])
    else:
        in_order = np.ascontiguousarray(x)
        _apply(in_order, p, ticket, in_order)
        y[...] = in_order
        return
    # u >= p, with u = bits * 2**-24, exactly.
    threshold = np.int32(math.ceil(p * 2**24))
    scale = y.dtype.type(1 / (1 - p) if p < 1 else 0)
    x, y = np.ascontiguousarray(x).reshape(-1), y.reshape(-1)
    _drop(x, y, n, pixels, channels, ticket, threshold, scale)


@parallel_jit
def _drop(x, y, n, pixels, channels, ticket, threshold, scale):
    """Drop elements of x, memory (n, pixels, channels) of the public shape (n, channels, pixels).

    A turn is a tile of the pixels of one image, of all channels.
    """
    tile = max(TILE // max(channels, 1), LEAST_TILE) // 8 * 8
    tiles = -(-pixels // tile)
    numbers, keep, ahead = (ticket[0], ticket[1]), (threshold, scale), tile * channels
    for turn in prange(n * tiles):
        image, number = divmod(np.int64(turn), tiles)
        left = number * tile
        count = min(tile, pixels - left)
        first = (image * pixels + left) * channels
        if channels == 1:
            drop_run(x, y, numbers, keep, ahead, first, count)
        else:
            word = image * channels * pixels + left
            drop_pixels(x, y, numbers, keep, ahead, (first, word), (count, pixels, channels))
