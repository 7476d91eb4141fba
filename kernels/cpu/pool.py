"""The threads of the CPU backend: they sleep until a kernel has parts of its loop to give away.

Numba's own layers did not serve: OpenMP's threads spin and take the cores from others; the
workqueue layer takes 15 us a loop, leaves the calling thread idle, and aborts the process when
two threads enter it. Here the calling thread works too, takes parts as the helpers do, one after
the other, and waits for nobody who has not begun: a helper that wakes late, or never because
another program has the core, costs nothing. So there is no need to spin.

All of this runs without the GIL. Sleeping and waking are Python's own locks, which work alike on
every system; the helpers are threads that Python does not know of.
"""

import ctypes
import os
from functools import cache
from threading import Lock
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils

from .cache import njit as cached_njit
from .lanes import I32, I64, POINTER, VOID
from .thread_count import MOST, get_num_threads
from .vector import intrinsic

PARTS_A_THREAD = 4  # so that threads which begin late, or are slower, take fewer

# A team is a block of memory, which only the functions below read and write. Bytes from its start:
FUNCTION, ARGUMENTS, PARTS = 0, 8, 16  # the loop at hand: code, its arguments, number of parts
NEXT = 64  # the part that nobody has taken yet
BUSY = 72  # 1 while a thread has the team
UNFINISHED = 80  # threads at work on the loop, and those invited
DONE = 88  # lock that the last one to finish opens
# Then the helpers, a block each. Bytes from the start of a block:
HELPER_BYTES = 128
WAKE = 0  # lock on which the helper sleeps
INVITED = 8  # 1 from the invitation until it is accepted or withdrawn
TEAM = 16

PART = ir.FunctionType(VOID, [POINTER, I64, I64])  # (arguments, part, parts)

_python = ctypes.PyDLL(None, handle=ctypes.pythonapi._handle)  # prototypes of our own
_python.PyThread_allocate_lock.restype = ctypes.c_void_p
_python.PyThread_acquire_lock.argtypes = [ctypes.c_void_p, ctypes.c_int]
_python.PyThread_start_new_thread.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
_python.PyThread_start_new_thread.restype = ctypes.c_ulong
_NOT_STARTED = ctypes.c_ulong(-1).value
MOST_CPUS = 1024  # that a set of CPUs has room for
MOST_KEPT_OFF = 16  # threads of a team: in a larger one a helper counts for less than its call
_current_cpu = getattr(_python, "sched_getcpu", None)  # Linux
if _current_cpu is not None:
    _set_affinity = _python.pthread_setaffinity_np
    _set_affinity.argtypes = [ctypes.c_ulong, ctypes.c_size_t, ctypes.c_void_p]


def _python_function(name: str, signature: Any) -> Any:
    """Return a function of Python's that needs no GIL, to be called in compiled code."""
    llvm.add_symbol(name, ctypes.cast(getattr(_python, name), ctypes.c_void_p).value)
    return types.ExternalFunction(name, signature)


_acquire = _python_function("PyThread_acquire_lock", types.int32(types.intp, types.int32))
_release = _python_function("PyThread_release_lock", types.void(types.intp))


def _word(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, I64.as_pointer())


@intrinsic
def _load(typing: Any, address: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_word(builder, arguments[0]))

    return types.intp(types.intp), emit


@intrinsic
def _store(typing: Any, address: Any, value: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[1], _word(builder, arguments[0]))
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), emit


def _atomic(operation: str) -> Any:
    @intrinsic
    def atomic(typing: Any, address: Any, value: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            word = _word(builder, arguments[0])
            return builder.atomic_rmw(operation, word, arguments[1], "seq_cst")

        return types.intp(types.intp, types.intp), emit

    return atomic


_add = _atomic("add")  # both return what was there before
_exchange = _atomic("xchg")


@intrinsic
def _call(typing: Any, function: Any, arguments: Any, part: Any, parts: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        function = builder.inttoptr(values[0], PART.as_pointer())
        builder.call(function, [builder.inttoptr(values[1], POINTER), *values[2:]])
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), emit


@njit
def _take_parts(team):
    function, arguments, parts = (
        _load(team + FUNCTION),
        _load(team + ARGUMENTS),
        _load(team + PARTS),
    )
    part = _add(team + NEXT, 1)
    while part < parts:
        _call(function, arguments, part, parts)
        part = _add(team + NEXT, 1)


def _help(helper):
    """What a helper does all its life."""
    team = _load(helper + TEAM)
    while True:
        _acquire(_load(helper + WAKE), 1)
        if _exchange(helper + INVITED, 0) == 1:
            _take_parts(team)
            if _add(team + UNFINISHED, -1) == 1:
                _release(_load(team + DONE))


@njit
def _run(team, threads, function, arguments):
    """Call ``function(arguments, part, parts)`` for all parts: alone, or with the team if free."""
    if threads < 2 or _exchange(team + BUSY, 1) == 1:
        _call(function, arguments, 0, 1)
        return
    _store(team + FUNCTION, function)
    _store(team + ARGUMENTS, arguments)
    _store(team + PARTS, threads * PARTS_A_THREAD)
    _store(team + NEXT, 0)
    _store(team + UNFINISHED, threads)
    for i in range(1, threads):
        helper = team + i * HELPER_BYTES
        _exchange(helper + INVITED, 1)
        _release(_load(helper + WAKE))
    _take_parts(team)
    for i in range(1, threads):
        if _exchange(team + i * HELPER_BYTES + INVITED, 0) == 1:
            _add(team + UNFINISHED, -1)
    if _add(team + UNFINISHED, -1) != 1:
        _acquire(_load(team + DONE), 1)
    _exchange(team + BUSY, 0)


@intrinsic
def run_in_parts(typing: Any, kernel: Any, worth_bytes: Any, team: Any, arguments: Any) -> Any:
    """Call ``kernel(*arguments, part, parts)`` for all parts, on the threads of ``team``.

    For each thread more than the calling one the arrays among the arguments have ``worth_bytes``
    together: waking a thread takes the caller some 2 us. Raises MemoryError where a part did.
    """
    kernel_type = kernel.get_call_type(typing, (*arguments.types, types.intp, types.intp), {})

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _, worth, team_value, packed = values
        address, threads, alone = (builder.extract_value(team_value, i) for i in range(3))
        size_bytes = I64(0)
        for i, kind in enumerate(arguments.types):
            if isinstance(kind, types.Array):
                array = context.make_array(kind)(context, builder, builder.extract_value(packed, i))
                array_bytes = builder.mul(array.nitems, array.itemsize)
                size_bytes = builder.add(size_bytes, array_bytes)
                # Without an owner to be counted: threads that count at one place wait on each
                # other. The caller holds the array.
                array.meminfo = cgutils.get_null_value(array.meminfo.type)
                packed = builder.insert_value(packed, array._getvalue(), i)
        worth = builder.mul(worth, alone)
        nothing = builder.icmp_signed("==", worth, I64(0))
        most = builder.udiv(size_bytes, builder.select(nothing, I64(1), worth))
        most = builder.add(most, I64(1))
        threads = builder.select(builder.icmp_signed("<", most, threads), most, threads)

        place = cgutils.alloca_once_value(
            builder, ir.Constant.literal_struct([ir.Constant(packed.type, ir.Undefined), I64(0)])
        )
        builder.store(packed, builder.gep(place, [I32(0)] * 2))
        failed = builder.gep(place, [I32(0), I32(1)])
        part = _part_function(context, builder, kernel, kernel_type, place.type, arguments.types)
        run = context.typing_context.resolve_value_type(_run)
        run_type = run.get_call_type(context.typing_context, [types.intp] * 4, {})
        compiled = _run.get_compile_result(run_type)
        context.active_code_library.add_linking_library(compiled.library)
        pointers = [builder.ptrtoint(pointer, I64) for pointer in (part, place)]
        context.call_internal(builder, compiled.fndesc, run_type, [address, threads, *pointers])
        with builder.if_then(builder.icmp_signed("!=", builder.load(failed), I64(0)), likely=False):
            message = (f"{kernel.dispatcher.__name__}: no memory for what its threads work in",)
            context.call_conv.return_user_exc(builder, MemoryError, message)
        return context.get_dummy_value()

    return types.none(kernel, worth_bytes, team, arguments), emit


def _part_function(
    context: Any, builder: Any, kernel: Any, kernel_type: Any, place: Any, kinds: Any
) -> Any:
    """Return a function of type PART that calls the kernel with the arguments at ``place``."""
    compiled = kernel.dispatcher.get_compile_result(kernel_type)
    context.active_code_library.add_linking_library(compiled.library)
    name = builder.module.get_unique_name(f"{compiled.fndesc.mangled_name}.part")
    function = ir.Function(builder.module, PART, name)
    function.linkage = "internal"
    inside = ir.IRBuilder(function.append_basic_block())
    pointer = inside.bitcast(function.args[0], place)
    packed, failed = (inside.gep(pointer, [I32(0), I32(i)]) for i in range(2))
    values = inside.load(packed)
    arguments = [inside.extract_value(values, i) for i in range(len(kinds))]
    status, _ = context.call_internal_no_propagate(
        inside, compiled.fndesc, kernel_type, [*arguments, *function.args[1:]]
    )
    with inside.if_then(status.is_error, likely=False):
        inside.store(I64(1), failed)
    inside.ret_void()
    return function


class _Team:
    """The memory and the helpers of this process."""

    def __init__(self) -> None:
        self.memory = np.zeros((MOST + 1) * HELPER_BYTES // 8, np.int64)
        self.address: int = self.memory.ctypes.data
        self.memory[DONE // 8] = _closed_lock()
        self.threads = 1
        self.growing = Lock()
        self.cpu = -1  # where the calling thread was seen last, and the helpers may not be
        self.idents: list[int] = []

    def grow(self, threads: int) -> None:
        """Start helpers until there are ``threads`` with the calling one."""
        with self.growing:
            for i in range(self.threads, threads):
                block = i * HELPER_BYTES
                self.memory[(block + WAKE) // 8] = _closed_lock()
                self.memory[(block + TEAM) // 8] = self.address
                started = _python.PyThread_start_new_thread(
                    _address_of_help(), self.address + block
                )
                if started == _NOT_STARTED:
                    raise RuntimeError(
                        f"the system starts no more than {i} of {threads} threads; set "
                        f"CONVOLT_NUM_THREADS={i}"
                    )
                self.idents.append(started)
                self.threads = i + 1
                self.cpu = -1

    def keep_off(self, cpu: int) -> None:
        """Keep the helpers off the CPU of the calling thread.

        Linux may wake a helper on the very CPU of the thread that wakes it, though others are
        idle, and leave it waiting there until the loop is over: seen for seconds on end.
        """
        others = {i for i in os.sched_getaffinity(0) if i != cpu and i < MOST_CPUS}
        if others:
            words = (ctypes.c_uint64 * (MOST_CPUS // 64))()
            for other in others:
                words[other // 64] |= 1 << other % 64
            for ident in self.idents:
                _set_affinity(ident, ctypes.sizeof(words), words)
        self.cpu = cpu


@cache
def _address_of_help() -> int:
    compiled = cached_njit(_help)
    compiled.compile((types.intp,))
    result = compiled.get_compile_result(types.none(types.intp))
    return result.library.get_pointer_to_function(result.fndesc.llvm_cfunc_wrapper_name)


def _closed_lock() -> int:
    lock = _python.PyThread_allocate_lock()
    _python.PyThread_acquire_lock(lock, 0)
    return lock


def team() -> tuple[int, int, int]:
    """Return (address, number of threads, 1 or 0: alone_if_small) of the team, now complete.

    Raises:
        ValueError: CONVOLT_NUM_THREADS is no number of threads.
        RuntimeError: The system starts fewer threads.
    """
    ours, threads = _team, get_num_threads()
    if ours.threads < threads:
        ours.grow(threads)
    if 1 < threads <= MOST_KEPT_OFF and _current_cpu and (cpu := _current_cpu()) != ours.cpu:
        ours.keep_off(cpu)
    return ours.address, threads, int(alone_if_small)


def _forget_team() -> None:
    """In a forked child, which has none of the helpers: it gets a team of its own."""
    global _team
    _abandoned.append(_team)
    _team = _Team()


alone_if_small = True  # False has even the smallest work shared: for tests
_team = _Team()
_abandoned: list[_Team] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_team)
