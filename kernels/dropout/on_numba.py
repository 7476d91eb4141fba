"""dropout in Numba: random words for a run of public indices, applied wherever these lie."""

import math

import numpy as np
from numba import prange

from ..cpu.jit import jit, parallel_jit
from ..random.on_numba import philox

TILE, LEAST_TILE = 1024, 64  # pixels whose words are made together: these stay in L1
KEPT = 1 << 14  # elements of a tile of all channels, where there are few: a byte each, in L1


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
    threshold = np.uint32(math.ceil(p * 2**24))
    scale = y.dtype.type(1 / (1 - p) if p < 1 else 0)
    _mask(x.reshape(-1), y.reshape(-1), n, channels, pixels, ticket, threshold, scale)


@parallel_jit
def _mask(x, y, n, channels, pixels, ticket, threshold, scale):
    """Mask x, memory (n, pixels, channels) of the public shape (n, channels, pixels).

    A task is a tile of the pixels of one image; where that is the whole image, the words of
    several channels, which follow each other, are made together.
    """
    tile_size = max(LEAST_TILE, min(TILE, KEPT // channels)) if channels else 1
    tiles = -(-pixels // tile_size)
    kept = np.empty(tile_size * channels, np.uint8)
    words = np.empty(max(TILE, tile_size) + 8, np.uint32)
    for task in prange(n * tiles):
        image, tile = divmod(np.int64(task), tiles)
        left, right = tile * tile_size, min(pixels, (tile + 1) * tile_size)
        together = max(1, TILE // pixels) if tiles == 1 else 1
        for top in range(0, channels, together):
            bottom = min(channels, top + together)
            first = (image * channels + top) * pixels + left
            stop = (image * channels + bottom - 1) * pixels + right
            block = first // 4
            philox(
                ticket[0],
                ticket[1] + np.uint64(block),
                np.uint64(0),
                words[: -(-(stop - 4 * block) // 4) * 4],
            )
            word = np.uint64(first - 4 * block)
            count = np.uint64(right - left)
            for channel in range(np.uint64(top), np.uint64(bottom)):
                _keep(words, word, count, threshold, kept, channel, np.uint64(channels))
                word += count
        start = np.uint64((image * pixels + left) * channels)
        for i in range(np.uint64((right - left) * channels)):
            y[start + i] = x[start + i] * (scale if kept[i] else 0)


@jit
def _keep(words, word, count, threshold, kept, first, step):
    """kept[first + step * i] = whether an element with word i is kept."""
    if step == 1:
        for i in range(count):
            kept[first + i] = words[word + i] >> 8 >= threshold
    else:
        for i in range(count):
            kept[first + step * i] = words[word + i] >> 8 >= threshold
