"""Arrays of any strides as flat memory, for loops that go through memory once, in order."""

from functools import lru_cache

import numpy as np


def flat(result: np.ndarray, *operands: np.ndarray) -> list[np.ndarray]:
    """Return the elements of all in the order in which ``result``, a dense array, has its own.

    They are views of memory where the elements lie in that order, else copies.
    """
    order = _memory_order(result.strides)
    return [np.ascontiguousarray(x.transpose(order)).reshape(-1) for x in (result, *operands)]


@lru_cache
def _memory_order(strides: tuple[int, ...]) -> list[int]:
    return sorted(range(len(strides)), key=lambda axis: -strides[axis])
