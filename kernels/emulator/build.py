"""Compiles the emulator's runtime and .cu files with g++, once: the results are kept on disk."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
from functools import cache
from hashlib import sha256
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

from ..cuda.signature import Source
from ..paths import cache_root

_ROOM = Path(__file__).parent
_COMMON = ("-std=c++17", "-fPIC", "-pthread")
_KERNEL = (
    "-g1",  # lines, for messages
    "-gdwarf-4",  # addr2line of binutils 2.40 takes the names of files wrong from version 5
    "-fno-strict-aliasing",
    "-fno-math-errno",
    "-ffp-contract=off",  # a*b + c rounds twice unless it says fma: the same on every machine
    "-fno-gnu-unique",  # else kernels that share a template share its shared memory
    "-fstack-clash-protection",  # touches every page: no array jumps over a guard
    "-ftrivial-auto-var-init=pattern",  # an uninitialised variable is garbage, always the same
    "-Wno-unknown-pragmas",
    "-Wno-attributes",
    "-fno-sanitize-recover=all",
)
# A declaration of dynamic shared memory: its indent, type and name.
_DYNAMIC = re.compile(r"^([ \t]*)extern\s+__shared__\s+([^;{}=()]+?)\b(\w+)\s*\[\s*\]\s*;", re.M)
_ALIGNMENT = re.compile(r"(extern\s+__shared__.*?)\b(?:__align__|alignas)\s*\([^()]*\)")
_LACKS = (
    "(The emulator knows CUDA C as in kernels: no host code, which belongs into another file or "
    "under #ifndef CONVOLT_EMULATOR; no inline PTX but by kernels/cuda/ptx.cuh; no CUDA libraries.)"
)
_MODES = {
    "fast": ("-O2", "-fsanitize=bounds"),
    # Aggregates stay whole, so that a vector access is one access.
    "check": (
        "-O1",
        "-fno-tree-sra",
        "-fsanitize=thread",
        "-fsanitize=bounds,alignment,shift,integer-divide-by-zero",
    ),
}


class EmulatorError(RuntimeError):
    """A kernel does not compile, or did what it must not; the message says where."""


def why_not() -> str | None:
    """Return why the emulator cannot work on this machine, or None when it can."""
    if platform.system() != "Linux":
        return f"the emulator runs on Linux only, and this is {platform.system()}"
    if which(_compiler()) is None:
        return (
            f"the emulator compiles kernels for the CPU and finds no {_compiler()}: "
            "apt install g++ (or name a g++ >= 12 by the variable CXX)"
        )
    return None


def _compiler() -> str:
    return os.environ.get("CXX") or "g++"


@cache
def _toolchain() -> tuple[str, ...]:
    """Command and CPU options of the compiler; its version is part of every key."""
    if reason := why_not():
        raise EmulatorError(reason)
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        flags = ""
    fused = all(re.search(rf"\b{flag}\b", flags) for flag in ("avx2", "fma"))
    return (_compiler(), *(("-mavx2", "-mfma") if fused else ()))


@cache
def _version() -> str:
    command = [_toolchain()[0], "-dumpfullversion", "-dumpmachine"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _key(*parts: object) -> str:
    return sha256(repr((_version(), _toolchain(), *parts)).encode()).hexdigest()[:20]


def _folder() -> Path:
    folder = cache_root() / "emulator"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run(command: list[str], of: str, text: str | None = None, hint: str = "") -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        lines = [
            line
            for line in done.stderr.splitlines()
            if re.search("error|fatal|Error|undefined", line)
        ]
        summary = "\n".join(lines[:10]) or done.stderr[-2000:]
        raise EmulatorError(f"{of} does not compile for the emulator:\n{summary}\n{hint}".rstrip())


def is_cold() -> bool:
    """Return whether no kernel has been compiled yet for this user."""
    return not any(_folder().glob("*.so"))


@cache
def _texts() -> str:
    """Of the runtime and the shim: a change of either compiles everything anew."""
    files = sorted((*_ROOM.glob("runtime/*"), *_ROOM.glob("shim/*")))
    return "".join(file.read_text() for file in files)


@cache
def runtime() -> ctypes.CDLL:
    """Return the loaded runtime, compiled first where needed (a few seconds, once).

    Raises:
        EmulatorError: There is no g++, or it fails.
    """
    path = _runtime_path()
    if not path.exists():
        source = _ROOM / "runtime" / "runtime.cpp"
        with TemporaryDirectory(dir=_folder()) as scratch:
            made = Path(scratch) / path.name
            soname = f"-Wl,-soname,{path.name}"
            _run(
                [*_toolchain(), *_COMMON, "-O2", "-shared", soname, str(source), "-o", str(made)],
                "the runtime",
            )
            made.replace(path)
    return ctypes.CDLL(str(path))


def _runtime_path() -> Path:
    return _folder() / f"runtime-{_key(_texts())}.so"


def library(source: Source, defines: dict[str, str], mode: str) -> ctypes.CDLL:
    """Return the loaded code of a .cu file, compiled first where needed (about a second).

    Args:
        source: The file and what it includes.
        defines: NAME -> value of its -D constants.
        mode: ``"fast"`` or ``"check"``.

    Raises:
        EmulatorError: It does not compile; the message has g++'s errors, with file and line.
    """
    runtime()
    options = (*_COMMON, *_KERNEL, *_MODES[mode], *(f"-D{k}={v}" for k, v in defines.items()))
    texts = [(str(path), text) for path, text in source.files.items()]
    path = _folder() / f"{source.path.stem}-{mode}-{_key(_texts(), texts, options)}.so"
    if not path.exists():
        _compile(source, options, path)
    return ctypes.CDLL(str(path))


def _compile(source: Source, options: tuple[str, ...], path: Path) -> None:
    exports = "".join(f"EMULATOR_EXPORT({entry})\n" for entry in source.entry_points)
    text = (
        f'#include "cuda_shim.h"\n#line 1 "{source.path}"\n{_with_pointers(source)}\n{exports}'
        "// Its address tells where the thread-local storage, static shared memory, is.\n"
        'extern "C" void* emulator_touch() { static thread_local char here; return &here; }\n'
    )
    with TemporaryDirectory(dir=_folder()) as scratch:
        made, compiled = Path(scratch) / path.name, Path(scratch) / "kernel.o"
        folders = ("-iquote", str(source.path.parent), f"-I{_ROOM / 'shim'}")
        command = [*_toolchain(), *options, *folders, "-x", "c++", "-c", "-", "-o", str(compiled)]
        _run(command, str(source.path), text, _LACKS)
        # Linked without the sanitizers: the runtime answers their calls.
        link = (*_toolchain(), "-shared", "-Wl,-z,defs")
        _run([*link, str(compiled), str(_runtime_path()), "-o", str(made)], str(source.path))
        made.replace(path)


def _with_pointers(source: Source) -> str:
    """The text, with dynamic shared memory declared as pointers, which g++ can be told."""

    def pointer(match: re.Match[str]) -> str:
        indent, c_type, name = match.groups()
        if not indent:
            raise EmulatorError(
                f"{source.path}: declare dynamic shared memory, {name}, inside the kernel, indented"
            )
        memory = f"static_cast<{c_type}*>(emulator::dynamic_shared())"
        return f"{indent}{c_type}* const {name} = {memory};"

    text = source.files[source.path]
    return _DYNAMIC.sub(pointer, _ALIGNMENT.sub(r"\1", text))


def with_lines(message: str) -> str:
    """Return ``message`` with each ``[pc FILE+OFFSET]`` made ``at FILE:LINE``, by addr2line."""

    def line(match: re.Match[str]) -> str:
        command = ["addr2line", "-e", match[1], "-i", match[2]]
        try:
            frames = subprocess.run(command, capture_output=True, text=True).stdout.split()
        except OSError:
            return ""
        known = [f for f in frames if ":" in f and "?" not in f and str(_ROOM) not in f]
        return f" at {' called from '.join(known)}" if known else ""

    return re.sub(r" ?\[pc (\S+)\+(0x[0-9a-f]+)\]", line, message)
