"""Runs CUDA kernels on the CPU: the same .cu files, without a GPU, with every check a GPU lacks.

    from convolt.kernels import emulator

    program = emulator.load("my.cu", TILE=16)
    counters = program.launch("transpose", (4, 4), 256, x, y, 64, 64)

    with emulator.options(mode="check", order="unfair", seed=3):
        program.launch("transpose", (4, 4), 256, x, y, 64, 64)

A thread block is a set of fibers; shared memory, barriers, warp operations, atomics, asynchronous
copies and tensor cores have models. Mode ``fast`` runs compiled code at full speed, with guards at
the ends of shared arrays. Mode ``check`` looks at every access: out of bounds, misaligned,
uninitialised, racing (vector clocks: only barriers order memory), and counts what the memory system
would see. An error names block, thread, file and line.

What a .cu must do for it: dynamic shared memory as ``EXTERN_SHARED(Type, name)``
(kernels/cuda/common.cuh), inline PTX only through kernels/cuda/ptx.cuh. Not modelled: weak memory
order, fences, clusters, textures, the hardware's rounding inside a tensor core.

``CONVOLT_EMULATOR=check`` (or ``fast``, the default) sets the mode of a process. Backend
``emulator`` runs all of convolt's kernels here.
"""

from .build import EmulatorError
from .guard import guarded
from .run import Counters, Launch, Options, Program, load, options, record

__all__ = [
    "Counters",
    "EmulatorError",
    "Launch",
    "Options",
    "Program",
    "guarded",
    "load",
    "options",
    "record",
]
