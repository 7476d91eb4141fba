"""All kernels of the package, and what each takes on each arch."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from .compile import ARCHS, CompileError, Cubin, cubin
from .launch import Kernel
from .occupancy import occupancy
from .signature import EntryPoint

KERNELS = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Row:
    """One kernel, compiled with one set of constants for one arch.

    Attributes:
        kernel: Name of the entry point.
        file: Its source, below ``kernels/``.
        arch: As the compiler names it.
        constants: The -D constants.
        registers: Of one thread.
        spills: Bytes stored or loaded because registers did not suffice.
        stack_bytes: Of one thread.
        shared_bytes: Of a block, static and the kernel's own dynamic.
        occupancy: Warps that an SM holds, in percent of the most.
        error: Why it does not compile; then the numbers are 0.
    """

    kernel: str
    file: str
    arch: str
    constants: dict[str, str]
    registers: int = 0
    spills: int = 0
    stack_bytes: int = 0
    shared_bytes: int = 0
    occupancy: int = 0
    error: str | None = None

    @property
    def sound(self) -> bool:
        """Whether it compiles, without spills or a stack frame, into what an SM can run."""
        return not (self.error or self.spills or self.stack_bytes) and self.occupancy > 0

    @property
    def state(self) -> str:
        """In words, what makes it sound or not, and what it is."""
        constants = " ".join(f"{name}={value}" for name, value in self.constants.items())
        return f"{self.kernel} ({self.file}, {self.arch}, {constants}): " + (
            self.error
            or f"{self.registers} registers, {self.spills} bytes of spills, {self.stack_bytes} of "
            f"stack, {self.shared_bytes} of shared memory, occupancy {self.occupancy}%"
        )


def all_kernels() -> list[Kernel]:
    """Return every ``Kernel`` that an ``on_cuda.py`` of the package, or what it imports, holds."""
    package = __name__.rpartition(".cuda.")[0]
    for file in sorted(KERNELS.glob("*/on_cuda.py")):
        import_module(f"{package}.{file.parent.name}.on_cuda")
    modules = [m for name, m in sorted(sys.modules.items()) if name.startswith(f"{package}.")]
    values = [value for module in modules for value in vars(module).values()]
    return list({id(k): k for value in values for k in _kernels_in(value)}.values())


def _kernels_in(value: object) -> Iterator[Kernel]:
    """The kernel that a module's constant is, or those that it holds."""
    if isinstance(value, Kernel):
        yield value
    elif isinstance(value, dict):
        yield from (v for v in value.values() if isinstance(v, Kernel))
    elif isinstance(value, tuple | list):
        yield from (v for v in value if isinstance(v, Kernel))


def all_sources() -> list[Path]:
    """Return every .cu file of the package."""
    return sorted(KERNELS.glob("*/*.cu"))


def archs_of(point: EntryPoint) -> tuple[str, ...]:
    """Return the archs that a kernel is for: those that its Limits name, else all."""
    named = re.findall(r"\bsm_\d+a?\b", " ".join(point.notes.get("Limits", ())))
    return tuple(arch for arch in ARCHS if arch in named) or ARCHS


def table(kernels: Iterable[Kernel], archs: Iterable[str] = ARCHS) -> list[Row]:
    """Compile ``kernels`` with all their constants for ``archs``, each source once.

    Raises:
        RuntimeError: NVRTC is not installed; the message says what to install.
    """
    wanted = tuple(archs)
    work = [
        (kernel, defines, arch)
        for kernel in kernels
        for defines in kernel.combinations()
        for arch in archs_of(kernel.entry_point)
        if arch in wanted
    ]
    units = {(k.path, tuple(d.items()), arch) for k, d, arch in work}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the compiler leaves the GIL alone
        compiled = dict(zip(units, pool.map(_try, units), strict=True))
    return [_row(k, d, arch, compiled[k.path, tuple(d.items()), arch]) for k, d, arch in work]


def _try(unit: tuple[Path, tuple[tuple[str, str], ...], str]) -> Cubin | CompileError:
    path, defines, arch = unit
    try:
        return cubin(path, dict(defines), arch)
    except CompileError as error:
        return error


def _row(kernel: Kernel, defines: dict[str, str], arch: str, compiled: Cubin | CompileError) -> Row:
    file = kernel.path.relative_to(KERNELS).as_posix()
    if isinstance(compiled, CompileError):
        return Row(kernel.entry, file, arch, defines, error=str(compiled))
    taken = compiled.resources[kernel.entry]
    shared_bytes = taken.shared_bytes + kernel.shared_bytes
    return Row(
        kernel=kernel.entry,
        file=file,
        arch=arch,
        constants=defines,
        registers=taken.registers,
        spills=taken.spill_bytes,
        stack_bytes=taken.stack_bytes,
        shared_bytes=shared_bytes,
        occupancy=occupancy(
            arch, block=kernel.block, registers=taken.registers, shared_bytes=shared_bytes
        ),
    )
