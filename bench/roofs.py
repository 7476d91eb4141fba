"""Measure the two roofs of a CPU: how fast it copies, and how fast it multiplies and adds.

A roof is for as many threads as convolt uses. Both are medians of the best way found, as the times
that are put beside them are medians. Loops of their own, in LLVM's language with vectors as wide as
convolt's, see to it that a roof does not depend on what its kernels reach.
"""

import ctypes
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from convolt.kernels import layout
from convolt.kernels.conv2d import Conv2dSize
from convolt.kernels.cpu.machine import vector_bytes
from convolt.kernels.cpu.memory import LEAST_BYTES, empty

from .measure import interleaved, threads

REPEATS = 5
COPIED_BYTES = 1 << 27  # more than the caches hold
TYPES = {"float32": ("float", 32, ctypes.c_float), "float64": ("double", 64, ctypes.c_double)}

# Enough independent sums to hide the latency of a multiply-add, few enough for the registers.
SUMS = 12
LOOPS = 1 << 23  # some 20 ms, beside which it takes no time to wake threads
STEP_BYTES = 256  # that the copy moves at a time


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of an array: ``call()`` moves ``bytes``, read and written."""

    call: Callable[[], object]
    bytes: int
    bytes_s: float  # its bandwidth when it was chosen; 0 where there was no choice


def best_copy(copied_bytes: int, repeats: int = REPEATS) -> Copy:
    """Return the quickest way to copy an array of this size into another.

    Of: NumPy's copy and one that stores past the caches, each by one thread and by all, and
    convolt's.
    """
    parts = threads()
    # The loop below needs aligned memory, which ``empty`` gives from LEAST_BYTES on.
    part_bytes = max(LEAST_BYTES, copied_bytes // parts // STEP_BYTES * STEP_BYTES)
    x, y = (empty((parts, part_bytes), np.dtype(np.uint8)) for _ in range(2))
    x.fill(1)
    y.fill(0)
    stream, pool = _stream_loop(), ThreadPoolExecutor(parts)

    def streamed(to: np.ndarray, source: np.ndarray) -> None:
        stream(to.ctypes.data, source.ctypes.data, source.nbytes)

    copies: list[Callable[[], object]] = [lambda: layout.fill(y, x)]
    for copy in (np.copyto, streamed):
        copies.append(lambda copy=copy: copy(y, x))
        copies.append(lambda copy=copy: list(pool.map(copy, y, x)))
    times_s = interleaved(copies, repeats)
    best = int(np.argmin(times_s))
    return Copy(copies[best], 2 * x.nbytes, 2 * x.nbytes / times_s[best])


def copy_bytes_s(repeats: int = REPEATS) -> float:
    """Return the bandwidth of the best copy of COPIED_BYTES."""
    return best_copy(COPIED_BYTES, repeats).bytes_s


def fma_flops_s(dtype: str = "float32", repeats: int = REPEATS) -> float:
    """Return the floating-point operations a second of multiply-adds in registers, all threads."""
    loop, flops = _fma_loop(dtype)
    with ThreadPoolExecutor(threads()) as pool:

        def all_threads() -> None:
            list(pool.map(loop, [LOOPS] * threads()))

        return threads() * flops * LOOPS / interleaved([all_threads], repeats)[0]


def roofs_line(report: dict[str, Any]) -> str:
    """Return the roofs in a report as one line under its table."""
    peak, copy = report["fma_gflops"], report["copy_gigabytes_per_s"]
    return f"roofs: multiply-adds {peak:.0f} GFLOP/s, copy {copy:.1f} GB/s"


def conv2d_floors_s(size: Conv2dSize, dtype: str, peak: float, copy: float) -> tuple[float, float]:
    """Return the least times of one verb of a convolution below these roofs: compute, memory.

    Operations are those on pixels of the image: what the padding adds to ``size.flops`` need not
    be computed. Bytes are those of each array, moved once.
    """
    inside = [
        _taps_inside(*axis)
        for axis in (
            (size.h, size.p, size.r, size.stride_h, size.pad_top, size.dilation_h),
            (size.w, size.q, size.s, size.stride_w, size.pad_left, size.dilation_w),
        )
    ]
    flops = 2 * size.n * size.k * (size.c // size.groups) * inside[0] * inside[1]
    return flops / peak, size.bytes(np.dtype(dtype).itemsize) / copy


def _taps_inside(length: int, count: int, taps: int, stride: int, pad: int, dilation: int) -> int:
    """Return how many taps of ``count`` windows along one axis lie on the image."""
    at = np.arange(count)[:, None] * stride - pad + np.arange(taps) * dilation
    return int(((at >= 0) & (at < length)).sum())


@cache
def _stream_loop() -> Any:
    """Compile ``loop(to, source, bytes)``, a copy whose stores do not go through the caches."""
    width = vector_bytes()
    vector, body = f"<{width // 4} x i32>", list[str]()
    for at in range(0, STEP_BYTES, width):
        body += [
            f"%x{at} = getelementptr i8, ptr %x, i64 %i",
            f"%from{at} = getelementptr i8, ptr %x{at}, i64 {at}",
            f"%v{at} = load {vector}, ptr %from{at}, align 64",
            f"%y{at} = getelementptr i8, ptr %y, i64 %i",
            f"%to{at} = getelementptr i8, ptr %y{at}, i64 {at}",
            f"store {vector} %v{at}, ptr %to{at}, align 64, !nontemporal !0",
        ]
    lines = [
        "define void @loop(ptr %y, ptr %x, i64 %end) {",
        *_counted(body, STEP_BYTES, phis=()),
        "fence seq_cst",
        "ret void",
        "}",
        "!0 = !{i32 1}",
    ]
    return _compiled(lines, None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


@cache
def _fma_loop(dtype: str) -> tuple[Callable[[int], float], int]:
    """Compile ``loop(times)``; return it with the operations of one time.

    Each of the sums becomes sum * 0.5 + 1 time after time, and stays below 2.
    """
    scalar, bits, kind = TYPES[dtype]
    lanes = vector_bytes() * 8 // bits
    vector, suffix = f"<{lanes} x {scalar}>", f"v{lanes}f{bits}"
    fma, add = f"@llvm.fma.{suffix}", f"@llvm.vector.reduce.fadd.{suffix}"
    half, one = ("<" + ", ".join([f"{scalar} {value}"] * lanes) + ">" for value in ("0.5", "1.0"))
    phis = [
        f"%a{i} = phi {vector} [ zeroinitializer, %entry ], [ %b{i}, %body ]" for i in range(SUMS)
    ]
    body = [
        f"%b{i} = call {vector} {fma}({vector} %a{i}, {vector} {half}, {vector} {one})"
        for i in range(SUMS)
    ]
    lines = [
        f"declare {vector} {fma}({vector}, {vector}, {vector})",
        f"declare {scalar} {add}({scalar}, {vector})",
        f"define {scalar} @loop(i64 %end) {{",
        *_counted(body, 1, phis),
        f"%s0 = fadd {scalar} 0.0, 0.0",
        *(f"%s{i + 1} = call {scalar} {add}({scalar} %s{i}, {vector} %b{i})" for i in range(SUMS)),
        f"ret {scalar} %s{SUMS}",
        "}",
    ]
    return _compiled(lines, kind, ctypes.c_int64), 2 * lanes * SUMS


def _counted(body: Iterable[str], step: int, phis: Iterable[str]) -> list[str]:
    """Return the lines of a loop of %i from 0 up to %end, at least once."""
    return [
        "entry:",
        "br label %body",
        "body:",
        "%i = phi i64 [ 0, %entry ], [ %next, %body ]",
        *phis,
        *body,
        f"%next = add i64 %i, {step}",
        "%more = icmp slt i64 %next, %end",
        "br i1 %more, label %body, label %done",
        "done:",
    ]


def _compiled(lines: list[str], result: Any, *arguments: Any) -> Any:
    """Compile a module with a function @loop for this CPU; calls of it hold no lock of Python."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=2
    )
    engine = binding.create_mcjit_compiler(binding.parse_assembly("\n".join(lines)), machine)
    engine.finalize_object()
    function = ctypes.CFUNCTYPE(result, *arguments)(engine.get_function_address("loop"))
    function.engine = engine  # which owns the code
    return function
