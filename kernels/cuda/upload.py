"""Batches from the host to the GPU, copied while it computes.

    host        stage 1  |  launch step 0, stage 2  |  launch step 1, stage 3  |  ...
    own stream  copy 0   |  copy 1                  |  copy 2                  |  ...
    kernels              |  step 0                  |  step 1                  |  ...

A batch is staged in pinned memory, from which the GPU copies by itself, on a stream of its own. Two
events keep the order: the kernels wait for the copy of their batch, and a copy waits for the
kernels launched before it, which may still read what lay at the same place. The host waits only
when it is two batches ahead, for its staging memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from importlib import import_module
from itertools import cycle
from typing import Any

import numpy as np

from ..arrays import Array, memory_order

Batch = tuple[np.ndarray, ...]

AHEAD = 1  # batches on their way while one is in use
_ALIGNMENT_BYTES = 256


def uploaded(batches: Iterable[Batch]) -> Generator[tuple[Array, ...], None, None]:
    """Yield each of ``batches`` as CuPy arrays with the same order in memory.

    What is launched on the current stream may use them at once. The next batch is asked for, and
    its copy begun, before this one is handed out.
    """
    cupy = import_module("cupy")
    stream = cupy.cuda.Stream(non_blocking=True)
    staging = cycle([_Staging(cupy) for _ in range(AHEAD + 1)])
    on_their_way: deque[tuple[tuple[Array, ...], Any]] = deque()
    try:
        for batch in batches:
            on_their_way.append(_begin(cupy, batch, next(staging), stream))
            if len(on_their_way) > AHEAD:
                yield _arrived(cupy, *on_their_way.popleft())
        while on_their_way:
            yield _arrived(cupy, *on_their_way.popleft())
    finally:
        stream.synchronize()  # nobody may free what is still copied to, or from


class _Staging:
    """Pinned memory for one batch."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._memory = np.empty(0, np.uint8)
        self.copied: Any = None  # the event after which it may be written to again

    def take(self, batch: Iterable[np.ndarray]) -> list[np.ndarray]:
        """Copy the arrays, once the copies from here have ended."""
        if self.copied is not None:
            self.copied.synchronize()
        arrays = list(batch)
        sizes = [-(-a.nbytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES for a in arrays]
        if sum(sizes) > self._memory.size:
            pinned = self._cupy.cuda.alloc_pinned_memory(sum(sizes))
            self._memory = np.frombuffer(pinned, np.uint8, sum(sizes))
        starts = np.cumsum([0, *sizes]).tolist()
        staged = [
            self._memory[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
            for start, a in zip(starts, arrays, strict=False)
        ]
        for place, array in zip(staged, arrays, strict=True):
            place[...] = array
        return staged


def _begin(
    cupy: Any, batch: Batch, staging: _Staging, stream: Any
) -> tuple[tuple[Array, ...], Any]:
    """Begin to copy a batch; return its arrays on the GPU and the event of the copy's end."""
    orders = [memory_order(array) for array in batch]
    staged = staging.take(a.transpose(o) for a, o in zip(batch, orders, strict=True))
    arrays = [cupy.empty(array.shape, array.dtype) for array in staged]
    launched = cupy.cuda.Event(disable_timing=True)
    launched.record(cupy.cuda.get_current_stream())
    stream.wait_event(launched)
    for array, source in zip(arrays, staged, strict=True):
        array.set(source, stream)
    staging.copied = cupy.cuda.Event(disable_timing=True)
    staging.copied.record(stream)
    public = (a.transpose(np.argsort(o).tolist()) for a, o in zip(arrays, orders, strict=True))
    return tuple(public), staging.copied


def _arrived(cupy: Any, arrays: tuple[Array, ...], copied: Any) -> tuple[Array, ...]:
    cupy.cuda.get_current_stream().wait_event(copied)
    return arrays
