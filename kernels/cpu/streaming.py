"""Streaming stores: past the caches, for results that are larger than these.

A common store first reads the line that it changes, a third of the traffic of a copy. What a cache
holds until it is read again is worth that; what leaves the last cache before is not. A store must
fill a line: the CPU would write parts of one to memory one by one.
"""

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from .lanes import I64, LINE_BYTES, load_vector, store_streaming
from .machine import cache_bytes
from .vector import intrinsic


def streams(result: np.ndarray) -> bool:
    """Return whether ``result`` is to be stored so: too large for the caches, of whole lines."""
    steps = (result.ctypes.data, *result.strides[:-1])
    return result.nbytes > last_cache_bytes() and not any(step % LINE_BYTES for step in steps)


@cache
def last_cache_bytes() -> int:
    """Return the size of the last cache."""
    return cache_bytes()[2]


@intrinsic
def convert_lines(typing: Any, y: Any, x: Any, first: Any, end: Any) -> Any:
    """Store the numbers x[first : end] in y, of another float dtype, as far as they fill lines.

    ``y`` and ``x`` are flat, y[first] begins a line. Returns the first element that is left.
    """
    itemsize, x_itemsize = y.dtype.bitwidth // 8, x.dtype.bitwidth // 8
    lanes = LINE_BYTES // itemsize

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        first, end = values[2:]
        count = builder.sub(end, first)
        end = builder.sub(end, builder.urem(count, I64(lanes)))
        to, source = (
            context.make_array(kind)(context, builder, value).data
            for kind, value in ((y, values[0]), (x, values[1]))
        )
        before, after = (ir.VectorType(place.type.pointee, lanes) for place in (source, to))
        convert = builder.fpext if itemsize > x_itemsize else builder.fptrunc
        with cgutils.for_range_slice(builder, first, end, I64(lanes), I64) as (i, _):
            numbers = load_vector(builder, builder.gep(source, [i]), before, x_itemsize)
            store_streaming(builder, convert(numbers, after), builder.gep(to, [i]))
        return end

    return types.intp(y, x, types.intp, types.intp), emit


@intrinsic
def wait_for_stores(typing: Any) -> Any:
    """Wait until other threads see all that was stored: streaming stores come late."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    nothing: Any = types.void
    return nothing(), emit
