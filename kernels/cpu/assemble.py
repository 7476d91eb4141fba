"""From the IR of a tile to machine code: compiled by LLVM on first use, kept on disk.

Numba is not asked, so that a tile costs a few milliseconds to compile and can be compiled for
other CPUs, whose assembly the tests read.
"""

import os
import tempfile
from functools import cache
from threading import Lock
from typing import Any

import llvmlite.binding as llvm

from .jit import cache_dir
from .machine import cpu_features, cpu_name
from .tiles import Tile, Transpose, module, transpose_module

Code = Tile | Transpose

_MODULES: Any = {Tile: module, Transpose: transpose_module}
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
    features = ",".join(f"+{name}" for name in sorted(cpu_features()))
    return _target_machine(triple, cpu_name(), features), triple


def _optimized(code: Code, machine: Any, triple: str) -> Any:
    compiled = llvm.parse_assembly(str(_MODULES[type(code)](code)))
    compiled.triple, compiled.data_layout = triple, str(machine.target_data)
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(compiled, builder)
    return compiled


def _load(code: Code) -> int:
    machine, triple = _host()
    path = cache_dir() / f"{code.name}.o"
    try:
        binary = path.read_bytes()
    except OSError:
        binary = machine.emit_object(_optimized(code, machine, triple))
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(binary)
        os.replace(temporary, path)  # another process never sees half a file
    empty = llvm.parse_assembly("")
    empty.triple = triple
    engine = llvm.create_mcjit_compiler(
        empty, llvm.Target.from_triple(triple).create_target_machine()
    )
    engine.add_object_file(llvm.ObjectFileRef.from_data(binary))
    engine.finalize_object()
    _engines.append(engine)
    return engine.get_function_address(code.name)
