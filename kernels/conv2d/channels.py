"""Channels in whole packs of 8 or 16 bytes, as copies move them: zeros are added where they lack.

Zeros of both operands add nothing to a sum, so that the padded convolution has the same results,
and beside them others that nobody reads.
"""

import math
from dataclasses import replace

from .. import layout
from ..arrays import INDEX_LIMIT, Array, Shape, address, empty, full
from . import Conv2dSize
from .algorithm import ALIGNMENT

_LEAST_BYTES = 8  # of a pack


def padded_size(verb: str, size: Conv2dSize, itemsize: int) -> Conv2dSize:
    """Return the convolution that computes a verb of ``size`` with packs of channels.

    x has whole packs in each group; so has grad_y, in dgrad and wgrad.
    """
    c = _whole(size.c // size.groups, itemsize) * size.groups
    k = size.k if verb == "fprop" else _whole(size.k // size.groups, itemsize) * size.groups
    return replace(size, c=c, k=k)


def is_indexed(size: Conv2dSize) -> bool:
    """Whether no array has more elements than an index counts."""
    return all(math.prod(s) <= INDEX_LIMIT for s in (size.x_shape, size.w_shape, size.y_shape))


def pack_bytes(verb: str, size: Conv2dSize, itemsize: int) -> int:
    """Return the bytes of the packs that the channels of a padded size fall into: 8 or 16."""
    lines = (size.c,) if verb == "fprop" else (size.c, size.k)
    whole = all(line // size.groups * itemsize % ALIGNMENT == 0 for line in lines)
    return ALIGNMENT if whole else _LEAST_BYTES


def padded(array: Array, shape: Shape, whole: Shape) -> Array:
    """Return an aligned array, seen as ``shape``, with zeros behind it up to ``whole``.

    Itself where it has that shape and begins on a multiple of ``ALIGNMENT``.
    """
    if shape == whole and address(array) % ALIGNMENT == 0:
        return array
    result = full(array, 0, whole)
    layout.fill(result[_part(shape)], array.reshape(shape))
    return result


def place(array: Array, shape: Shape, whole: Shape) -> Array:
    """Return where a padded result goes: into ``array``, of ``shape``, or into a larger one."""
    return array if shape == whole else empty(array, whole)


def unpad(result: Array, array: Array, shape: Shape) -> None:
    """Copy what ``place`` returned into ``array``, unless it is that."""
    if result is not array:
        layout.fill(array.reshape(shape), result[_part(shape)])


def x_shape(size: Conv2dSize) -> Shape:
    """Return (N, H, W, G, C/G)."""
    return (*size.x_shape[:3], size.groups, size.c // size.groups)


def y_shape(size: Conv2dSize) -> Shape:
    """Return (N, P, Q, G, K/G)."""
    return (*size.y_shape[:3], size.groups, size.k // size.groups)


def w_shape(size: Conv2dSize) -> Shape:
    """Return (G, K/G, R, S, C/G)."""
    return (size.groups, size.k // size.groups, *size.w_shape[1:])


def _whole(channels: int, itemsize: int) -> int:
    """Channels of a group, padded: few ones to the least pack, others to the widest."""
    least = _LEAST_BYTES // itemsize
    if channels % least == 0:
        return channels
    unit = least if channels <= 4 * least else 2 * least
    return -(-channels // unit) * unit


def _part(shape: Shape) -> tuple[slice, ...]:
    return tuple(slice(0, n) for n in shape)
