"""dropout in Numba: random words for a run of public indices, applied wherever these lie."""

import math

import numpy as np
from numba import prange

from ..cpu.jit import parallel_jit
from ..random.on_numba import philox

TILE = 1024  # elements whose words are made together: they stay in L1


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
    tiles = -(-pixels // TILE)
    for task in prange(n * tiles):
        image, tile = divmod(np.int64(task), tiles)
        left, right = tile * TILE, min(pixels, (tile + 1) * TILE)
        together = max(1, TILE // pixels)
        words = np.empty(TILE + 8, np.uint32)
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
            for channel in range(top, bottom):
                at = np.uint64((image * pixels + left) * channels + channel)
                for _ in range(left, right):
                    y[at] = x[at] * (scale if words[word] >> 8 >= threshold else 0)
                    word += np.uint64(1)
                    at += np.uint64(channels)
