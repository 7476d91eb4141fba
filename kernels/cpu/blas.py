"""Matrix products of the ``on_numba.py`` files: NumPy's BLAS on one thread, in threads of ours.

BLAS's own idle threads spin. They starve whatever else wants the cores, Numba's threads first of
all: on a busy machine a step took 20 times as long. So the work is cut into tasks, by its size
alone, and BLAS runs single-threaded in each: results do not depend on the number of threads.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numba
import numpy as np
from threadpoolctl import ThreadpoolController

from ..arrays import Array, Shape
from .jit import parallel_region

BLOCK_FLOPS = 4_000_000  # least of a block of a product: some 50 us on one core
BLOCKS = 8  # at most: each packs the other operand anew
_scratch = threading.local()


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="convolt-blas")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked child has none of the threads


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


def for_each(task: Callable[[int], None], count: int) -> None:
    """Call ``task(0)`` to ``task(count - 1)`` on all threads, with BLAS on one thread in each."""

    def quietly(i: int) -> None:
        with np.errstate(all="ignore"):  # infinities and NaNs are results
            task(i)

    threads = numba.get_num_threads()
    with parallel_region, _blas().limit(limits=1):
        run = map if min(count, threads) < 2 else _pool(threads).map
        for _ in run(quietly, range(count)):
            pass


def scratch(shape: Shape, dtype: np.dtype) -> Array:
    """Return an uninitialized array in memory that this thread uses again and again."""
    size = int(np.prod(shape)) * dtype.itemsize
    if getattr(_scratch, "memory", None) is None or _scratch.memory.size < size:
        _scratch.memory = np.empty(size, np.uint8)
    return _scratch.memory[:size].view(dtype).reshape(shape)


def product(a: Array, b: Array, out: Array) -> None:
    """out = a b, for matrices, cut into blocks of rows or columns."""
    m, n = out.shape
    blocks = min(BLOCKS, max(m, n), 2 * m * n * a.shape[1] // BLOCK_FLOPS)
    if blocks < 2:
        for_each(lambda _: np.matmul(a, b, out=out), 1)
        return
    cuts = np.linspace(0, max(m, n), blocks + 1).astype(int)

    def block(i: int) -> None:
        cut = slice(cuts[i], cuts[i + 1])
        if m >= n:
            np.matmul(a[cut], b, out=out[cut])
        else:
            np.matmul(a, b[:, cut], out=out[:, cut])

    for_each(block, blocks)
