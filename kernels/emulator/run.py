"""Launches on the emulator: options, arguments, counters."""

from __future__ import annotations

import ctypes
import operator
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from numpy.lib.array_utils import byte_bounds

from ..arrays import address as address_of
from ..cuda.launch import BLOCK_LIMIT, GRID_LIMITS, pack_arguments
from ..cuda.signature import Argument, Signature, Source
from ..cuda.tensor_map import extent
from .build import EmulatorError, library, runtime, with_lines

_MODES = ("fast", "check")
_ORDERS = ("forward", "reverse", "unfair")
_TIMES = ("lazy", "eager", "random")
_STACK_BYTES = {"fast": 64 * 1024, "check": 128 * 1024}
_BLOCKS_WORTH_A_THREAD = 16
_SHARED_BYTES_LIMIT = 227 * 1024  # of the largest GPU


@dataclass(frozen=True, slots=True)
class Options:
    """How kernels run.

    Attributes:
        mode: ``"fast"``, or ``"check"``: every access is checked and counted.
        order: Which thread goes first: ``"forward"``, ``"reverse"``, or ``"unfair"``: warps with
            random priorities, by ``seed``, so that one runs far ahead while others starve.
        seed: Of order ``unfair`` and of asynchronous ``random``.
        asynchronous: When copies and tensor-core operations end that a kernel does not wait for
            at once: ``"lazy"``, as late as allowed, ``"eager"``, at once, or ``"random"``.
        strict: Whether a barrier after some threads have exited is an error.
        threads: OS threads in mode ``fast``; 0: as many as there are CPUs.
        timeout_s: Seconds after which a launch is stopped.
    """

    mode: str = field(default_factory=lambda: os.environ.get("CONVOLT_EMULATOR") or "fast")
    order: str = "forward"
    seed: int = 0
    asynchronous: str = "lazy"
    strict: bool = True
    threads: int = 0
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        for name, allowed in (("mode", _MODES), ("order", _ORDERS), ("asynchronous", _TIMES)):
            if getattr(self, name) not in allowed:
                source = " (CONVOLT_EMULATOR sets it)" if name == "mode" else ""
                raise ValueError(
                    f"emulator: {name}{source} must be one of {', '.join(allowed)}, "
                    f"got {getattr(self, name)!r}"
                )


_current: Options | None = None


def _options() -> Options:
    global _current
    if _current is None:
        _current = Options()
    return _current


@contextmanager
def options(**changes: Any) -> Iterator[None]:
    """Run kernels with other options until the block ends; see ``Options``.

    Raises:
        TypeError: There is no such option.
        ValueError: A value is not one of those allowed.
    """
    global _current
    previous = _options()
    _current = replace(previous, **changes)
    try:
        yield
    finally:
        _current = previous


# ---- What C++ sees; the same fields in runtime/state.h ---------------------------------------


class _COptions(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_int)
            for name in ["order", "asynchronous", "os_threads", "check", "strict"]
        ),
        ("stack_bytes", ctypes.c_int),
        ("seed", ctypes.c_uint64),
        ("timeout_s", ctypes.c_double),
    ]


class _CBuffer(ctypes.Structure):
    _fields_ = [
        ("begin", ctypes.c_size_t),
        ("end", ctypes.c_size_t),
        ("name", ctypes.c_char_p),
        ("writable", ctypes.c_int),
    ]


@dataclass(frozen=True, slots=True)
class Counters:
    """What a launch did. Those on memory are counted in mode ``check``, else 0.

    A sector is 32 bytes of global memory. ``read`` and ``write`` count every request of every warp,
    what the L2 cache serves when nothing stays in L1; ``distinct`` counts each byte or sector
    once, what DRAM must move. ``bank_conflicts`` are passes over shared memory beyond the least
    number; MMA counts are floating-point operations by shape.
    """

    global_read_bytes: int
    global_read_sectors: int
    global_write_bytes: int
    global_write_sectors: int
    distinct_read_bytes: int
    distinct_read_sectors: int
    distinct_write_bytes: int
    distinct_write_sectors: int
    shared_read_bytes: int
    shared_write_bytes: int
    shared_requests: int
    bank_conflicts: int
    barriers: int
    warp_operations: int
    special_functions: int
    asynchronous_copies: int
    atomics: int
    mma_m16n8k16_bf16: int
    mma_m16n8k8_tf32: int
    wgmma_k16_bf16: int
    blocks: int


_CCounters = ctypes.c_uint64 * len(fields(Counters))


# ---- Launches --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch, as ``record`` keeps it: what ran, how, on what, and what it did."""

    path: Path
    entry: str
    defines: dict[str, str]
    options: Options
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    arguments: list[Argument]
    counters: Counters


_recording: list[list[Launch]] = []
_one_at_a_time = threading.Lock()
_entries: dict[tuple[Any, ...], tuple[Any, Any, Source]] = {}


@contextmanager
def record() -> Iterator[list[Launch]]:
    """Collect all launches until the block ends, in a list."""
    launches: list[Launch] = []
    _recording.append(launches)
    try:
        yield launches
    finally:
        _recording[:] = [r for r in _recording if r is not launches]  # equal ones may be nested


class Program:
    """A .cu file, ready to launch its kernels on the emulator; made by ``load``."""

    def __init__(self, source: Source, defines: dict[str, str]) -> None:
        self._source = source
        self._defines = defines

    def launch(
        self,
        entry: str,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        *arguments: Any,
        shared_bytes: int = 0,
    ) -> Counters:
        """Run a kernel on NumPy arrays.

        Args:
            entry: Name of the ``__global__`` function.
            grid: Blocks, an int or up to three of them.
            block: Threads of a block, an int or up to three of them, at most 1,024 in all.
            arguments: One for each parameter: an array of the pointer's type, a number, a dict
                or object with the fields of a struct.
            shared_bytes: Dynamic shared memory of a block.

        Returns:
            What it did.

        Raises:
            TypeError, ValueError: An argument does not fit its parameter, or a size is wrong.
            EmulatorError: The kernel does not compile, or did what it must not.
        """
        signature = self._source.signature(entry, self._defines)
        packed = pack_arguments(entry, signature, arguments)
        sizes = _three("grid", grid), _three("block", block)
        return run(self._source, self._defines, signature, *sizes, shared_bytes, packed)


def _three(what: str, sizes: int | Sequence[int]) -> tuple[int, int, int]:
    given = tuple(sizes) if isinstance(sizes, Sequence) else (sizes,)
    if not 1 <= len(given) <= 3:
        raise ValueError(f"{what} must be one to three ints, got {sizes!r}")
    x, y, z = (*map(operator.index, given), 1, 1)[:3]
    return x, y, z


def load(path: str | Path, **constants: Any) -> Program:
    """Read a .cu file; it is compiled at its first launch.

    Args:
        path: The file. It may include others by ``#include "..."``.
        constants: NAME=value for its -D constants: ints, or the text of a C type.

    Raises:
        SourceError: The file cannot be read.
    """
    return Program(Source(Path(path).resolve()), {k: str(v) for k, v in constants.items()})


def run(
    source: Source,
    defines: dict[str, str],
    signature: Signature,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    shared_bytes: int,
    arguments: list[Argument],
) -> Counters:
    """Run a kernel; ``Kernel.launch`` calls this for NumPy arrays.

    Raises:
        ValueError: A size is out of range.
        EmulatorError: The kernel does not compile, or did what it must not.
    """
    entry, chosen = signature.entry, _options()
    if (
        not all(1 <= n <= most for n, most in zip(grid, GRID_LIMITS, strict=True))
        or min(block) < 1
        or block[0] * block[1] * block[2] > BLOCK_LIMIT
    ):
        raise ValueError(f"{entry}: grid {grid} of blocks of {block} threads cannot be launched")
    if not 0 <= shared_bytes <= _SHARED_BYTES_LIMIT:
        raise ValueError(f"{entry}: shared_bytes must be 0 to {_SHARED_BYTES_LIMIT}")
    function, touch = _entry(source, defines, entry, chosen.mode)
    memory, pointers, buffers = _pack(arguments)
    counters, error = _CCounters(), ctypes.create_string_buffer(4000)
    with _one_at_a_time:
        failed = runtime().emulator_launch(
            entry.encode(),
            function,
            touch,
            pointers,
            (ctypes.c_uint * 3)(*grid),
            (ctypes.c_uint * 3)(*block),
            ctypes.c_size_t(shared_bytes),
            ctypes.byref(_c_options(chosen, grid)),
            buffers,
            len(buffers),
            ctypes.byref(counters),
            error,
            ctypes.c_size_t(len(error)),
        )
    del memory  # the arguments were in use until here
    if failed:
        raise EmulatorError(with_lines(error.value.decode(errors="replace")))
    counted = Counters(*counters)
    for launches in _recording:
        launches.append(
            Launch(source.path, entry, defines, chosen, grid, block, arguments, counted)
        )
    return counted


def _entry(source: Source, defines: dict[str, str], entry: str, mode: str) -> tuple[Any, Any]:
    key = (id(source), entry, mode, *defines.items())
    if key not in _entries:
        code = library(source, defines, mode)
        _entries[key] = (code[f"emulator_entry_{entry}"], code.emulator_touch, source)
    return _entries[key][:2]


def _c_options(o: Options, grid: tuple[int, int, int]) -> _COptions:
    cpus = o.threads or len(os.sched_getaffinity(0))
    useful = grid[0] * grid[1] * grid[2] // _BLOCKS_WORTH_A_THREAD
    return _COptions(
        order=_ORDERS.index(o.order),
        asynchronous=_TIMES.index(o.asynchronous),
        os_threads=o.threads or max(1, min(cpus, useful)),
        check=o.mode == "check",
        strict=o.strict,
        stack_bytes=_STACK_BYTES[o.mode],
        seed=o.seed,
        timeout_s=o.timeout_s,
    )


_ALIGNMENT = 64


def _pack(arguments: list[Argument]) -> tuple[Any, Any, Any]:
    """The arguments behind one array of pointers, and the memory that the kernel may touch."""
    slots = [-(-max(_size(a), 1) // _ALIGNMENT) * _ALIGNMENT for a in arguments]
    memory = ctypes.create_string_buffer(sum(slots) + _ALIGNMENT)
    address = -(-ctypes.addressof(memory) // _ALIGNMENT) * _ALIGNMENT
    pointers = (ctypes.c_void_p * max(1, len(arguments)))()
    buffers = []
    for i, (argument, slot) in enumerate(zip(arguments, slots, strict=True)):
        value: Any = argument.value
        parameter = argument.parameter
        if not parameter.pointer:
            ctypes.memmove(address, value.tobytes(), value.nbytes)
            for opaque in _tensor_maps(value):  # the arrays that they describe
                buffers.append(_CBuffer(*extent(opaque), parameter.name.encode(), True))
        elif value is not None:
            first = address_of(value)
            ctypes.c_void_p.from_address(address).value = first
            begin, end = byte_bounds(value) if value.size else (first, first)
            buffers.append(_CBuffer(begin, end, parameter.name.encode(), not parameter.const))
        pointers[i] = address
        address += slot
    return memory, pointers, (_CBuffer * len(buffers))(*buffers)


def _tensor_maps(value: Any) -> Iterator[Any]:
    """The 128 bytes of each ``TensorMap`` that a value is, or has among its fields."""
    if value.dtype.names == ("opaque",):
        yield from value["opaque"].reshape(-1, 16)
    else:
        for name in value.dtype.names or ():
            yield from _tensor_maps(value[name])


def _size(argument: Argument) -> int:
    value: Any = argument.value
    return 8 if argument.parameter.pointer else value.nbytes
