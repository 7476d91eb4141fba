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

A file is taken as it is: with the toolkit's basic headers (of ``cuda_fp16.h`` and ``cuda_bf16.h``
the types and conversions), static and dynamic shared memory, any ``__global__`` function that is
no template and lies in no namespace. It holds no host code (``#ifndef CONVOLT_EMULATOR`` hides it),
no CUDA libraries, and PTX only through kernels/cuda/ptx.cuh. Not modelled: clusters, textures, the
rounding inside a tensor core, weak memory order: to mode ``check`` no fence or flag orders two
threads, and one that spins until another writes lets it run by ``__nanosleep`` alone.

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
