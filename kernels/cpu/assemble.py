"""From the IR of a tile to machine code: compiled by LLVM on first use, kept on disk.

Numba is not asked, so that a tile costs a few milliseconds to compile and can be compiled for
other CPUs, whose assembly the tests read.
"""

import os
from contextlib import suppress
from functools import cache
from threading import Lock
from typing import Any

import llvmlite.binding as llvm

from ..paths import kept
from .cache import cache_dir, keep_if_possible
from .machine import cpu_name, feature_flags
from .tiles import Tile, Transpose

Code = Tile | Transpose

_lock = Lock()
_engines: list[Any] = []  # what they hold must not be freed: addresses point into it
_addresses: dict[Code, int] = {}


def address(code: Code) -> int:
    """Return where the machine code of ``code`` is, for the CPU at hand."""
    found = _addresses.get(code)
    if found is None:
        with _lock:
            found = _addresses.get(code) or _load(code)
            _addresses[code] = found
    return found


def assembly(code: Code, triple: str, cpu: str, features: str = "") -> str:
    """Return the assembly of ``code`` for a CPU that need not be here.

    Raises:
        RuntimeError: This LLVM was built without the target that the triple names.
    """
    machine = _target_machine(triple, cpu, features)
    return machine.emit_assembly(_optimized(code, machine, triple))


@cache
def _initialized() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


@cache
def _target_machine(triple: str, cpu: str, features: str) -> Any:
    _initialized()
    target = llvm.Target.from_triple(triple)
    return target.create_target_machine(cpu=cpu, features=features, opt=3, jit=True)


@cache
def _host() -> tuple[Any, str]:
    triple = llvm.get_process_triple()
    return _target_machine(triple, cpu_name(), feature_flags()), triple


def _optimized(code: Code, machine: Any, triple: str) -> Any:
    compiled = llvm.parse_assembly(str(code.module()))
    compiled.triple, compiled.data_layout = triple, str(machine.target_data)
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(compiled, builder)
    return compiled


def _load(code: Code) -> int:
    machine, triple = _host()
    path = cache_dir() / f"{code.name}.o"
    binary = kept(path)  # whole: LLVM would crash on half of it
    if binary is None:
        binary = machine.emit_object(_optimized(code, machine, triple))
        with suppress(OSError):  # of which the next line tells
            path.parent.mkdir(parents=True, exist_ok=True)
        keep_if_possible(path, binary)
    empty = llvm.parse_assembly("")
    empty.triple = triple
    linker = llvm.Target.from_triple(triple).create_target_machine()  # the engine takes it over
    engine = llvm.create_mcjit_compiler(empty, linker)
    engine.add_object_file(llvm.ObjectFileRef.from_data(binary))
    engine.finalize_object()
    _engines.append(engine)
    return engine.get_function_address(code.name)


def _after_fork() -> None:
    """Make a lock for the child: another thread may have held the parent's."""
    global _lock
    _lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
