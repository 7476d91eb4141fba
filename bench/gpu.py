"""What the benchmarks of a GPU share: times with a cold cache, operands, comparing, ceilings.

Times are those between two CUDA events. L2 is overwritten before each call, so that operands come
from DRAM, for as long as Python needs to launch the call: so the events tell the time of kernels,
not of Python. What was written to L2 has to leave it while the call runs, which is the same for
both sides. Calls of one side go through several sets of operands.

The backend ``emulator`` takes the place of a GPU in tests: everything runs, and times say nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from convolt.kernels import layout, random
from convolt.kernels.arrays import Array
from convolt.kernels.backend import array_module, current_backend
from convolt.kernels.cuda.gpu import Gpu, gpu_of

BACKENDS = ("cuda", "emulator")
DTYPES = ("float32", "float64", "bfloat16")
PRECISIONS = ("ieee", "tf32")

SETS = 4  # of operands, where memory allows
SHARE_OF_MEMORY = 0.4  # of what is free, for operands
BLOCKS, BLOCK = 16, 1 << 18  # of a large result, those elements that are compared
PRODUCT_SIZE = 8192  # rows of the square matrices whose product is a ceiling
COPIED_BYTES = 1 << 30

UNIT = {"float32": 2.0**-24, "float64": 2.0**-53, "bfloat16": 2.0**-8}
TF32_UNIT = 2.0**-10  # of an operand that is cut off; 2^-11 where it is rounded

Call = Callable[[], Any]


def gpu() -> Gpu:
    """Return the GPU that computes, or the one that the emulator stands for."""
    return gpu_of(array_module().empty(0, np.float32))


# Operands


def operand(shape: tuple[int, ...], dtype: str, seed: int) -> Array:
    """Return normally distributed numbers, made where the backend computes."""
    ticket = array_module().asarray(np.array([seed, 0], np.uint64))
    return layout.cast(random.normal(ticket, shape), dtype)


def sets_that_fit(set_bytes: int) -> int:
    """Return how many sets of operands are made: at least one."""
    if current_backend() != "cuda":
        return 2
    return max(1, min(SETS, int(SHARE_OF_MEMORY * free_bytes()) // max(1, set_bytes)))


def free_bytes() -> int:
    """Return the bytes of the GPU's memory that nobody has, CuPy's pool of free blocks included."""
    cupy = import_module("cupy")
    return cupy.cuda.runtime.memGetInfo()[0] + cupy.get_default_memory_pool().free_bytes()


# Times


def medians_s(sides: Sequence[Sequence[Call]], repeats: int) -> list[float]:
    """Return the median time of a call of each side, in seconds.

    The calls of a side are one op on several sets of operands. Each is made once untimed: it may
    compile, or try algorithms. Then sides take ``repeats`` turns of one call, L2 cold.
    """
    on_gpu = current_backend() == "cuda"
    launch_s = [max(_launch_s(call) for call in calls) for calls in sides]
    times_s: list[list[float]] = [[] for _ in sides]
    for turn in range(repeats):
        for calls, to_launch_s, found in zip(sides, launch_s, times_s, strict=True):
            call = calls[turn % len(calls)]
            found.append(_event_s(call, to_launch_s) if on_gpu else _clock_s(call))
    return [median(found) for found in times_s]


def _launch_s(call: Call) -> float:
    """How long Python needs for a call whose kernels it does not wait for, the second time."""
    call()
    synchronize()
    launch_s = _clock_s(call)
    synchronize()
    return launch_s


def _clock_s(call: Call) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start


def _event_s(call: Call, launch_s: float) -> float:
    cuda = import_module("cupy").cuda
    begin, end = cuda.Event(), cuda.Event()
    _overwrite_l2(launch_s)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return cuda.get_elapsed_time(begin, end) / 1e3


def _overwrite_l2(least_s: float) -> None:
    """Write to twice as many bytes as L2 has, again and again for some ``least_s`` seconds."""
    buffer = _other_memory()
    stream = import_module("cupy").cuda.get_current_stream()
    for _ in range(max(1, math.ceil(1.5 * least_s * gpu().dram_bytes_s / buffer.nbytes))):
        buffer.data.memset_async(0, buffer.nbytes, stream)


@cache
def _other_memory() -> Any:
    cupy = import_module("cupy")
    l2_bytes = max(gpu().l2_bytes, cupy.cuda.Device().attributes.get("L2CacheSize", 0))
    return cupy.empty(2 * l2_bytes, np.uint8)


def synchronize() -> None:
    """Wait for the GPU."""
    if current_backend() == "cuda":
        import_module("cupy").cuda.get_current_stream().synchronize()


# Comparing


def sampled(array: Any) -> np.ndarray:
    """Return a result's elements on the host: all, or of a large one blocks from end to end."""
    flat = array.reshape(-1)
    size = math.prod(array.shape)
    if size <= BLOCKS * BLOCK:
        return _on_host(flat)
    starts = np.linspace(0, size - BLOCK, BLOCKS).astype(int)
    return np.concatenate([_on_host(flat[start : start + BLOCK]) for start in starts])


def _on_host(array: Any) -> np.ndarray:
    if hasattr(array, "cpu"):  # PyTorch, whose bfloat16 NumPy does not know
        array = array.detach().double().cpu().numpy()
    elif hasattr(array, "get"):
        array = array.get()
    return array.astype(np.float64)


def worst_error(got: Any, ref: Any, length: int, dtype: str, precision: str) -> float:
    """Return the largest difference as a share of its bound; above 1, or NaN, the results differ.

    Of sums of L products of normally distributed numbers, some sqrt(L) large, both sides differ by
    2 u L sqrt(L) in float32 where sums are cut off rather than rounded, by 16 sqrt(L) / 1024 where
    operands are rounded to tf32 or cut off to it, and by the rounding of results.

    Args:
        got: Ours.
        ref: The peer's.
        length: Products of a sum, L.
        dtype: Of the arrays.
        precision: ``"tf32"`` or ``"ieee"``.
    """
    a, b = sampled(got), sampled(ref)
    summed = UNIT["float64" if dtype == "float64" else "float32"]
    bound = 2 * summed * length**1.5 + 2 * UNIT[dtype] * np.abs(b)
    if dtype == "float32" and precision == "tf32":
        bound = bound + 16 * TF32_UNIT * math.sqrt(length) + 2 * TF32_UNIT * np.abs(b)
    return float(np.max(np.abs(a - b) / bound, initial=0.0))


# Ceilings


def measured_ceilings(torch: Any, repeats: int) -> Gpu:
    """Return the GPU with the bandwidth of a copy and the speed of a bfloat16 product as they are.

    Args:
        torch: PyTorch, whose product is taken; without it the speed is the known one.
        repeats: Of each.
    """
    here = gpu()
    module = array_module()
    size = COPIED_BYTES if current_backend() == "cuda" else 1 << 10
    x, y = (module.empty(size, np.uint8) for _ in range(2))
    copy_s = medians_s([[lambda: module.copyto(y, x)]], repeats)[0]
    here = replace(here, dram_bytes_s=2 * size / copy_s)
    if torch is None or current_backend() != "cuda":
        return here
    options = {"device": "cuda", "dtype": torch.bfloat16}
    a, b = (torch.randn(PRODUCT_SIZE, PRODUCT_SIZE, **options) for _ in range(2))
    product_s = medians_s([[lambda: a @ b]], repeats)[0]
    return replace(here, matmul_flops_s=2 * PRODUCT_SIZE**3 / product_s)
