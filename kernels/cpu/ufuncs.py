"""NumPy's ufuncs in threads: they are vectorized already, and let go of the GIL while they run.

Each thread takes its part of the longest walk through the result's memory, so that the bytes are
those of one thread. Handing out the parts costs some 20 us, hence WORTH_BYTES.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np

from .thread_count import get_num_threads

WORTH_BYTES = 1 << 20  # of an array: one thread takes longer for it than handing out parts
_LEAST_LENGTH = 16  # of the axis that is cut, where there is one: parts are about equal


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="convolt")  # as many as were ever busy


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # the child has none of the threads


def in_threads(function: Callable[..., Any], *operands: Any, out: np.ndarray) -> None:
    """Call ``function(*operands, out=out)``, a part of ``out`` in each thread.

    Args:
        function: Computes an element of ``out`` from those of the operands in its place.
        operands: Arrays that broadcast to the shape of ``out``, or numbers. One may be ``out``;
            otherwise they must not overlap it.
        out: Any strides.
    """
    bytes_each = (getattr(x, "nbytes", 0) for x in (out, *operands))
    if max(bytes_each) < WORTH_BYTES or (threads := get_num_threads()) == 1:
        function(*operands, out=out)
        return
    shape, strides = out.shape, out.strides
    axis = max(range(out.ndim), key=lambda i: (shape[i] >= _LEAST_LENGTH, abs(strides[i])))
    length = shape[axis]
    cuts = [length * i // threads for i in range(threads + 1)]
    parts = [
        [_part(x, axis - out.ndim, length, here) for x in (out, *operands)]
        for here in map(slice, cuts[:-1], cuts[1:])
    ]
    others = [_pool().submit(_quietly, function, *part) for part in parts[1:]]
    function(*parts[0][1:], out=parts[0][0])
    for other in others:
        other.result()


def _part(x: Any, axis: int, length: int, here: slice) -> Any:
    """Return the part of an operand along an axis, counted from the last; all if it broadcasts."""
    if getattr(x, "ndim", 0) < -axis or x.shape[axis] != length:
        return x
    return x[(..., here, *[slice(None)] * (-1 - axis))]


@np.errstate(all="ignore")  # as around every implementation, but threads have a state of their own
def _quietly(function: Callable[..., Any], out: np.ndarray, *operands: Any) -> None:
    function(*operands, out=out)
