"""Arrays of any strides as flat memory, for loops that go through memory once, in order."""

import numpy as np

from ..arrays import memory_order


def flat(result: np.ndarray, *operands: np.ndarray) -> list[np.ndarray]:
    """Return the elements of all in the order in which ``result``, a dense array, has its own.

    They are views of memory where the elements lie in that order, else copies.
    """
    order = memory_order(result)
    return [np.ascontiguousarray(x.transpose(order)).reshape(-1) for x in (result, *operands)]


def lie_alike(result: np.ndarray, *operands: np.ndarray) -> bool:
    """Return whether ``flat`` copies nothing: all are dense, in one order of memory."""
    order = memory_order(result)
    return all(
        x.shape == result.shape and x.transpose(order).flags.c_contiguous
        for x in (result, *operands)
    )
