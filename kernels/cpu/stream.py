"""Results that are written past the caches, and arrays of any strides walked as flat memory.

A store to a line that is in no cache reads the line from memory first, unless it says that the
line will not be needed soon (a non-temporal store): a third of the traffic of a copy. A result
larger than the last cache is stored so; a smaller one is not, as the next op finds it there.
Non-temporal stores want whole aligned lines: loops fill a tile that stays in the L1 cache, in any
way that is vectorized, and ``stream`` carries it away. Tiles are small, so that the CPU fetches
what the next one needs while it stores the last.
"""

from functools import cache, lru_cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from .jit import jit
from .machine import cache_bytes

TILE = 512  # elements
_LINE_BYTES = 64


@cache
def _last_cache_bytes() -> int:
    return cache_bytes()[2]


def past_caches(result: np.ndarray) -> bool:
    """Return whether ``result`` is to be written past the caches: it is larger than they are."""
    return result.nbytes > _last_cache_bytes()


@intrinsic
def tile_like(typing: Any, array: Any) -> Any:
    """Return a flat array of ``TILE`` elements of the dtype of ``array``, on the stack.

    It is for the function that asks, and those it calls. It has no owner to be counted: that is an
    atomic operation, which waits until all streams have reached memory.
    """
    result = types.Array(array.dtype, 1, "C")

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind, word = context.get_data_type(array.dtype), context.get_value_type(types.intp)
        place = cgutils.alloca_once(builder, ir.ArrayType(kind, TILE))
        place.align = _LINE_BYTES
        size = word(context.get_abi_sizeof(kind))
        tile = context.make_array(result)(context, builder)
        data = builder.bitcast(place, kind.as_pointer())
        populate_array(
            tile, data=data, shape=[word(TILE)], strides=[size], itemsize=size, meminfo=None
        )
        return tile._getvalue()

    return result(array), emit


@intrinsic
def stream(typing: Any, result: Any, first: Any, tile: Any, count: Any) -> Any:
    """Copy ``tile[:count]`` to ``result[first:]`` past the caches; both are flat, of one dtype.

    The lines that the copy fills only in part, at its ends, are stored as usual. Other threads see
    the lines after the next atomic operation of this one, as at the end of its part of a loop.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        itemsize = context.get_abi_sizeof(context.get_data_type(result.dtype))
        word = values[1].type
        to, source = (
            builder.ptrtoint(context.make_array(kind)(context, builder, value).data, word)
            for kind, value in ((result, values[0]), (tile, values[2]))
        )
        to = builder.add(to, builder.mul(values[1], word(itemsize)))
        size = builder.mul(values[3], word(itemsize))
        head = builder.and_(builder.neg(to), word(_LINE_BYTES - 1))
        head = builder.select(builder.icmp_unsigned("<", head, size), head, size)
        tail = builder.and_(builder.sub(size, head), word(_LINE_BYTES - 1))
        end = builder.sub(size, tail)
        _copy(builder, to, source, head)
        with cgutils.for_range_slice(builder, head, end, word(_LINE_BYTES), word) as (i, _):
            _stream_line(builder, builder.add(to, i), builder.add(source, i))
        _copy(builder, builder.add(to, end), builder.add(source, end), tail)
        return context.get_dummy_value()

    return types.void(result, types.intp, tile, types.intp), emit


def _stream_line(builder: Any, to: Any, source: Any) -> None:
    line = ir.VectorType(ir.IntType(32), _LINE_BYTES // 4)
    store = builder.store(
        builder.load(builder.inttoptr(source, line.as_pointer()), align=4),
        builder.inttoptr(to, line.as_pointer()),
        align=_LINE_BYTES,
    )
    store.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))


def _copy(builder: Any, to: Any, source: Any, count: Any) -> None:
    pointer = ir.IntType(8).as_pointer()
    with builder.if_then(builder.icmp_unsigned("!=", count, count.type(0)), likely=False):
        to, source = (builder.inttoptr(address, pointer) for address in (to, source))
        cgutils.raw_memcpy(builder, to, source, count, 1)


@jit
def put(result, first, tile, count, past):
    """Copy ``tile[:count]`` to ``result[first:]``, past the caches or not."""
    if past:
        stream(result, first, tile, count)
    else:
        for i in range(count):
            result[first + i] = tile[i]


def flat(result: np.ndarray, *operands: np.ndarray) -> list[np.ndarray]:
    """Return the elements of all in the order in which ``result``, a dense array, has its own.

    They are views of memory where the elements lie in that order, else copies.
    """
    order = _memory_order(result.strides)
    return [np.ascontiguousarray(x.transpose(order)).reshape(-1) for x in (result, *operands)]


@lru_cache
def _memory_order(strides: tuple[int, ...]) -> list[int]:
    return sorted(range(len(strides)), key=lambda axis: -strides[axis])
