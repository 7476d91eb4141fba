"""Memory for results on the host: aligned, and used again once its array is gone.

The pages of fresh memory cost more than the arithmetic of a big activation: the system fills each
with zeros when it is first touched. A training step asks for the same sizes again and again, so a
block whose last array is dropped is kept, and the next result of about its size lies there.
"""

import os
from math import prod
from threading import RLock
from typing import Any

import numpy as np

ALIGNMENT_BYTES = 64  # a cache line, and the widest vector of a CPU
LEAST_BYTES = 4096  # smaller results are NumPy's: malloc reuses their memory and is quicker
KEPT = 2  # times the most memory ever in use at a time: a step needs other sizes at other times

_BYTE = np.dtype(np.uint8)

_unused: dict[int, list["_Block"]] = {}  # by size; the block dropped last is the first used again
_allocated_bytes = 0  # of all blocks, in use and unused
_most_used_bytes = 0
_lock = RLock()  # of the two counts. Not of the lists: they change by atomic steps


class _Block(np.ndarray):
    """Aligned bytes. A class of its own, since NumPy looks through bases of the array's own."""

    __slots__ = ()


class _Lease(np.ndarray):
    """A block in use: every array on the block holds this object, in the end, as its base.

    So it dies with the last of them, in whatever thread, and the block goes back. That is one
    atomic step: the garbage collector may come to it at any moment, inside a lock too.
    """

    __slots__ = ("home",)

    def __del__(self) -> None:
        self.home.append(self.base)


def empty(shape: tuple[int, ...], dtype: np.dtype, strides: tuple[int, ...] | None = None) -> Any:
    """Return an array to be filled in, from an address that is a multiple of 64.

    Args:
        shape: Of the array.
        dtype: Without references to objects.
        strides: Of a dense array; None for C order.
    """
    size = prod(shape) * dtype.itemsize
    if size < LEAST_BYTES:
        return np.ndarray(shape, dtype, strides=strides)
    step = 1 << (size.bit_length() - 4)  # at most an eighth is left over, and never touched
    size = -(-size // step) * step
    home = _unused.get(size)
    if home is None:
        home = _unused.setdefault(size, [])
    try:
        block = home.pop()
    except IndexError:
        block = _fresh_block(size)
    lease = block.view(_Lease)
    lease.home = home
    return np.ndarray(shape, dtype, lease, 0, strides)


def _fresh_block(size: int) -> _Block:
    """Take a block from the system, and give it others back if too many lie unused."""
    global _allocated_bytes, _most_used_bytes
    memory = np.empty(size + ALIGNMENT_BYTES, _BYTE)
    first = -memory.ctypes.data % ALIGNMENT_BYTES
    with _lock:
        _allocated_bytes += size
        _most_used_bytes = max(_most_used_bytes, _allocated_bytes - unused_bytes())
        _shrink(KEPT * _most_used_bytes)
    return memory[first : first + size].view(_Block)


def unused_bytes() -> int:
    """Return how much memory is kept for results to come."""
    return sum(size * len(blocks) for size, blocks in list(_unused.items()))


def empty_cache() -> None:
    """Give the memory that no array uses back to the system."""
    global _most_used_bytes
    with _lock:
        _shrink(0)
        _most_used_bytes = _allocated_bytes


def _shrink(limit_bytes: int) -> None:
    """Give unused blocks back, of the size with most of them, until all take ``limit_bytes``."""
    global _allocated_bytes
    while _allocated_bytes > limit_bytes:
        size = max(list(_unused), key=lambda size: size * len(_unused[size]), default=0)
        try:
            _unused[size].pop()
        except (IndexError, KeyError):  # none is left
            return
        _allocated_bytes -= size


def _after_fork() -> None:
    """Make a lock for the child: another thread may have held the parent's."""
    global _lock
    _lock = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
