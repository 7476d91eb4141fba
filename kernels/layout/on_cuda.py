"""layout on CUDA: launches of copy.cu (same type) and convert.cu (another one)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..cuda.launch import FLOAT_TYPES, Kernel, ceil_div
from ..cuda.strided import Strided, launch, merged, steps_of

TYPES = ("bool", "uint8", "int32", "int64", *FLOAT_TYPES)
WORDS = ("uint8", "uint16", "uint32", "uint64")
_TILE = 2048  # elements, rows unpadded
_LEAST_TILE = 64  # smaller ones are not worth a block
_BANKS = 32

_COPY_DIRECT = Kernel(__file__, "copy.cu", "layout_copy_direct", block=256, WORD=WORDS)
_COPY_TILED = Kernel(__file__, "copy.cu", "layout_copy_tiled", block=256, WORD=WORDS)


def _convert(source):
    entry = f"layout_convert_from_{source}"
    return Kernel(__file__, "convert.cu", entry, block=256, STORAGE=TYPES)


_CONVERT = {source: _convert(source) for source in TYPES}


def fill(y, x):
    if np.may_share_memory(x, y):
        x = _copied(x)
    if x.dtype == y.dtype:
        _copy(y, x)
    elif {x.dtype.name, y.dtype.name} <= set(TYPES):
        launch(_CONVERT[x.dtype.name], y, x, STORAGE=y.dtype)
    else:
        raise TypeError(f"copy: no conversion from {x.dtype} to {y.dtype}; there is {TYPES}")


def _copied(x):
    copy = np.empty_like(x)
    _copy(copy, x)
    return copy


def _copy(y, x):
    word = f"uint{8 * x.itemsize}"
    if word not in WORDS:
        raise TypeError(f"copy: elements of 1, 2, 4 or 8 bytes are needed, not {x.dtype}")
    x, y = x.view(word), y.view(word)
    transposed = transposed_of(y.shape, y.strides, x.shape, x.strides, x.itemsize)
    if transposed is None:
        launch(_COPY_DIRECT, y, x, WORD=word)
    else:
        rest = transposed.rest
        _COPY_TILED.launch(transposed.tiles * rest.count, x, y, transposed, rest, WORD=word)


@dataclass(frozen=True, slots=True)
class Transposed:
    """The fields of ``struct Transposed``, and what else a launch needs.

    Attributes:
        p, q: Lengths of the axes along which x and y are contiguous, or nearest to it.
        p_tile, q_tile: Of a tile.
        pitch: Of its rows in shared memory.
        x_p, x_q, y_p, y_q: Steps of x and y along p and q, in elements.
        rest: The other axes.
    """

    p: int
    q: int
    p_tile: int
    q_tile: int
    pitch: int
    x_p: int
    x_q: int
    y_p: int
    y_q: int
    rest: Strided

    @property
    def tiles(self) -> int:
        """Of one matrix."""
        return ceil_div(self.p, self.p_tile) * ceil_div(self.q, self.q_tile)


@lru_cache(maxsize=4096)
def transposed_of(y_shape, y_strides, x_shape, x_strides, itemsize):
    """Return how to copy x to y in tiles; None where their orders of memory agree."""
    y_steps = steps_of(y_shape, y_strides, itemsize, y_shape)
    x_steps = steps_of(x_shape, x_strides, itemsize, y_shape)
    lengths, (y_steps, x_steps) = merged(y_shape, (y_steps, x_steps))
    nearest = min((i for i, s in enumerate(x_steps) if s), key=lambda i: abs(x_steps[i]), default=0)
    if nearest == 0 or x_steps[0] == 0:
        return None
    p, q = lengths[nearest], lengths[0]
    p_tile, q_tile = tile(p, q)
    if p_tile * q_tile < _LEAST_TILE:
        return None
    others = [i for i in range(1, len(lengths)) if i != nearest]
    shape, *rest = (tuple(t[i] for i in others) for t in (lengths, y_steps, x_steps))
    strides = x_steps[nearest], x_steps[0], y_steps[nearest], y_steps[0]
    return Transposed(
        p, q, p_tile, q_tile, pitch(p_tile, q_tile), *strides, Strided.walk(shape, rest)
    )


def tile(p, q):
    """Return the tile of a (p, q) matrix: whole rows and columns, or multiples of 32."""
    q_tile = min(q, 32)
    p_tile = _part(p, _TILE // q_tile)
    return p_tile, _part(q, _TILE // p_tile)


def _part(length, most):
    return length if length <= most else most // 32 * 32


def pitch(p_tile, q_tile):
    """Return the words of a row of p_tile, so that a warp reads columns from different banks.

    It reads 32 / q_tile columns where these are short; else one, for which any odd number serves.
    """
    if q_tile > _BANKS:
        return p_tile | 1
    return p_tile + (ceil_div(_BANKS, q_tile) - p_tile) % _BANKS
