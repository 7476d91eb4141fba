"""Measure the two roofs of a CPU: how fast it copies, and how fast it multiplies and adds.

A roof is for as many threads as convolt uses. Both are medians of the best way found, as the times
that are put beside them are medians.
"""

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np

from convolt.kernels import layout

from .measure import aligned, interleaved, threads

REPEATS = 5

# Enough independent sums to hide the latency of a multiply-add, few enough for the registers.
ACCUMULATORS = 12
LOOPS = 1 << 20


def copy_bytes_s(copied_bytes: int, repeats: int = REPEATS) -> float:
    """Return the bandwidth of a copy between two arrays of this size, bytes read and written.

    The best of: NumPy's copy by one thread and by all, each its part, and convolt's.
    """
    x = aligned((max(1, copied_bytes // 4),), "float32")
    y = aligned(x.shape, "float32")
    x.fill(1)
    y.fill(0)
    with ThreadPoolExecutor(threads()) as pool:
        pieces = list(zip(np.array_split(y, threads()), np.array_split(x, threads()), strict=True))
        copies: list[Callable[[], object]] = [
            lambda: np.copyto(y, x),
            lambda: list(pool.map(lambda piece: np.copyto(*piece), pieces)),
            lambda: layout.fill(y, x),
        ]
        best_s = min(interleaved(copies, repeats))
    return 2 * x.nbytes / best_s


def fma_flops_s(dtype: str = "float32", repeats: int = REPEATS) -> float:
    """Return the floating-point operations a second of multiply-adds in registers, all threads.

    Vectors are as wide as the CPU's; nothing is read or written.
    """
    loop, flops = _fma_loop(dtype)
    with ThreadPoolExecutor(threads()) as pool:

        def all_threads() -> None:
            list(pool.map(loop, [LOOPS] * threads()))

        return threads() * flops * LOOPS / interleaved([all_threads], repeats)[0]


@cache
def _fma_loop(dtype: str) -> tuple[Callable[[int], float], int]:
    """Compile ``loop(times)``, and return it with the operations of one time."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    features = binding.get_host_cpu_features()
    machine = binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=features.flatten(), opt=2
    )
    vector_bytes = 64 if features.get("avx512f") else 32 if features.get("avx2") else 16
    lanes = vector_bytes // np.dtype(dtype).itemsize
    module = binding.parse_assembly(
        _source({"float32": "float", "float64": "double"}[dtype], lanes)
    )
    engine = binding.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    kind = {"float32": ctypes.c_float, "float64": ctypes.c_double}[dtype]
    function = ctypes.CFUNCTYPE(kind, ctypes.c_int64)(engine.get_function_address("loop"))
    function.engine = engine  # pyright: ignore[reportAttributeAccessIssue]  # owns the code
    return function, 2 * lanes * ACCUMULATORS


def _source(scalar: str, lanes: int) -> str:
    """Return the loop in LLVM's language: each sum becomes sum * 0.5 + 1, and stays below 2."""
    vector = f"<{lanes} x {scalar}>"
    suffix = f"v{lanes}f{32 if scalar == 'float' else 64}"
    fma, reduce = f"@llvm.fma.{suffix}", f"@llvm.vector.reduce.fadd.{suffix}"
    half, one = ("<" + ", ".join([f"{scalar} {value}"] * lanes) + ">" for value in ("0.5", "1.0"))
    each = range(ACCUMULATORS)
    phis = [f"%a{i} = phi {vector} [ zeroinitializer, %entry ], [ %b{i}, %body ]" for i in each]
    fmas = [
        f"%b{i} = call {vector} {fma}({vector} %a{i}, {vector} {half}, {vector} {one})"
        for i in each
    ]
    sums = [f"%s{i + 1} = call {scalar} {reduce}({scalar} %s{i}, {vector} %b{i})" for i in each]
    lines = [
        f"declare {vector} {fma}({vector}, {vector}, {vector})",
        f"declare {scalar} {reduce}({scalar}, {vector})",
        f"define {scalar} @loop(i64 %times) {{",
        "entry:",
        "br label %body",
        "body:",
        "%i = phi i64 [ 0, %entry ], [ %next, %body ]",
        *phis,
        *fmas,
        "%next = add i64 %i, 1",
        "%more = icmp slt i64 %next, %times",
        "br i1 %more, label %body, label %end",
        "end:",
        f"%s0 = fadd {scalar} 0.0, 0.0",
        *sums,
        f"ret {scalar} %s{ACCUMULATORS}",
        "}",
    ]
    return "\n".join(lines)
