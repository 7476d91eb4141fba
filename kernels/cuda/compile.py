"""Source to CUBIN by NVRTC, for any arch: neither a GPU nor a driver is needed.

What was compiled is kept on disk, below ``CONVOLT_CACHE_DIR``, under a name that is a hash of all
that it was made from; a second process compiles nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..paths import cache_root, keep, kept
from .signature import Source, read

ARCHS = ("sm_75", "sm_80", "sm_90a", "sm_100a")  # every kernel compiles for these

_OPTIONS = ("--std=c++17", "--generate-line-info", "--ptxas-options=-v")
_FORMAT = 2  # of the files in the cache


class CompileError(RuntimeError):
    """The compiler refused a source: the message has its lines, with file and line number."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What a kernel takes, by the compiler's log.

    Attributes:
        registers: Of one thread.
        spill_bytes: Bytes stored or loaded because registers did not suffice.
        stack_bytes: Of one thread: arrays that registers cannot hold, and spills.
        shared_bytes: Static shared memory of a block.
    """

    registers: int
    spill_bytes: int
    stack_bytes: int
    shared_bytes: int


@dataclass(frozen=True, slots=True)
class Cubin:
    """A compiled source.

    Attributes:
        code: The CUBIN, as the driver loads it.
        resources: Name of an entry point -> what it takes.
    """

    code: bytes
    resources: dict[str, Resources]


def cubin(path: Path, defines: Mapping[str, str], arch: str) -> Cubin:
    """Return the compiled source, from the cache where it is there.

    Args:
        path: The .cu file.
        defines: NAME -> value of each -D constant.
        arch: ``"sm_80"``, ``"sm_90a"``, ...

    Raises:
        CompileError: The source does not compile for this arch.
        SourceError: It, or a file that it includes, cannot be read.
        RuntimeError: NVRTC is not installed, or the cache cannot be written; the message says
            what to do.
    """
    nvrtc = _nvrtc()
    source = read(path)
    file = cache_dir() / f"{_key(source, defines, arch, nvrtc.getVersion())}.bin"
    if (found := _load(file)) is None:
        found = _compile(nvrtc, source, defines, arch)
        if Source(source.path).files == source.files:  # else edited meanwhile: another name
            _save(file, found)
    return found


def cache_dir() -> Path:
    """Return where compiled sources are kept."""
    return cache_root() / "cuda"


def arch_of(compute_capability: str) -> str:
    """Return the arch to compile for on a GPU: ``"90"`` -> ``"sm_90a"``.

    From 9.0 on, ``a`` admits the instructions that only this one architecture has.
    """
    return f"sm_{compute_capability}{'a' * (int(compute_capability) >= 90)}"


def nvrtc_version() -> tuple[int, int]:
    """Return NVRTC's version.

    Raises:
        RuntimeError: It is not installed; the message says what to install.
    """
    return _nvrtc().getVersion()


def _nvrtc() -> Any:
    try:
        nvrtc = import_module("cupy.cuda").nvrtc
        nvrtc.getVersion()
    except Exception as error:  # which one depends on what is missing
        reason = str(error).partition("\n")[0]
        raise RuntimeError(
            f"NVRTC, which compiles CUDA kernels, cannot be used: {reason}; "
            "pip install 'convolt[cuda-compile]' (with a GPU: 'convolt[cuda13]' or [cuda12])"
        ) from error
    return nvrtc


def _compile(nvrtc: Any, source: Source, defines: Mapping[str, str], arch: str) -> Cubin:
    options = (
        f"--gpu-architecture={arch}",
        *_OPTIONS,
        f"-I{source.path.parent}",
        *(f"-D{name}={value}" for name, value in defines.items()),
    )
    text = source.files[source.path]
    program = nvrtc.createProgram(text, str(source.path), (), ())
    try:
        nvrtc.compileProgram(program, options)
        # CuPy takes the last byte for a C string's end and drops it: it is a 0 of the ELF file.
        code = nvrtc.getCUBIN(program) + b"\0"
        return Cubin(code, _resources(nvrtc.getProgramLog(program)))
    except nvrtc.NVRTCError as error:
        constants = " ".join(f"-D{name}={value}" for name, value in defines.items())
        raise CompileError(
            f"{source.path.name} does not compile for {arch} with {constants}: {error}\n"
            f"{nvrtc.getProgramLog(program).strip()}"
        ) from error
    finally:
        nvrtc.destroyProgram(program)


_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_NUMBERS = {
    "registers": re.compile(r"Used (\d+) registers"),
    "stack_bytes": re.compile(r"(\d+) bytes (?:stack frame|cumulative stack size)"),
    "shared_bytes": re.compile(r"(\d+) bytes smem"),
}
_SPILLS = re.compile(r"(\d+) bytes spill (?:stores|loads)")


def _resources(log: str) -> dict[str, Resources]:
    """Read ptxas' log: for each entry point, its name, then what it takes."""
    _, *parts = _ENTRY.split(log)
    found = {}
    for entry, text in zip(parts[::2], parts[1::2], strict=True):
        numbers = {
            name: max(map(int, pattern.findall(text)), default=0)
            for name, pattern in _NUMBERS.items()
        }
        found[entry] = Resources(spill_bytes=sum(map(int, _SPILLS.findall(text))), **numbers)
    return found


def _key(source: Source, defines: Mapping[str, str], arch: str, version: tuple[int, int]) -> str:
    """A hash of all that a compilation depends on."""
    root = source.path.parent
    parts = {
        "format": _FORMAT,
        "files": [(os.path.relpath(p, root), text) for p, text in source.files.items()],
        "defines": sorted(defines.items()),
        "options": _OPTIONS,
        "arch": arch,
        "nvrtc": version,
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _save(file: Path, compiled: Cubin) -> None:
    """Keep an entry.

    Raises:
        RuntimeError: The cache cannot be written.
    """
    resources = {entry: asdict(r) for entry, r in compiled.resources.items()}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        keep(file, json.dumps(resources).encode() + b"\n" + compiled.code)
    except OSError as error:
        raise RuntimeError(
            f"compiled kernels cannot be kept in {file.parent}: {error.strerror}; set "
            "CONVOLT_CACHE_DIR to a folder that can be written"
        ) from error


def _load(file: Path) -> Cubin | None:
    """What the cache has, or None; a damaged entry is as good as none."""
    if (data := kept(file)) is None:
        return None
    resources, _, code = data.partition(b"\n")
    return Cubin(code, {e: Resources(**r) for e, r in json.loads(resources).items()})
