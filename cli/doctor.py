"""``convolt doctor``: what this machine can run, and what was chosen."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from typer import Option

PACKAGES = ("convolt", "numpy", "numba", "cupy")
NUMBERS = ("registers", "spills", "stack_bytes", "shared_bytes", "occupancy")
COLUMNS = ("kernel", "file", "arch", "constants", *NUMBERS)
CUPY_PACKAGES = ("cupy-cuda13x", "cupy-cuda12x", "cupy")


def doctor(
    as_json: Annotated[bool, Option("--json", help="Print JSON.")] = False,
    kernels: Annotated[
        bool, Option("--kernels", help="Compile every CUDA kernel and show what each takes.")
    ] = False,
    arch: Annotated[
        list[str] | None, Option(help="With --kernels: only this arch, sm_80; may be repeated.")
    ] = None,
) -> None:
    """Show each backend and why it can or cannot be used, versions, the CPU, threads and cache.

    Exits with 2 when CONVOLT_BACKEND or CONVOLT_NUM_THREADS names what cannot be used.
    With --kernels, which needs no GPU, exits with 1 when a kernel does not compile, spills or has
    a stack frame.
    """
    if kernels:
        _kernels(as_json, arch)
        return
    if arch:
        raise typer.BadParameter("--arch goes with --kernels")
    report = examine()
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)
    if report["error"]:
        raise typer.Exit(2)


def _kernels(as_json: bool, archs: list[str] | None) -> None:
    from ..kernels.cuda.compile import ARCHS
    from ..kernels.cuda.table import all_kernels, table

    if unknown := set(archs or ()) - set(ARCHS):
        raise typer.BadParameter(f"--arch {unknown.pop()}: choose among {', '.join(ARCHS)}")
    rows = table(all_kernels(), archs or ARCHS)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        _print_table([asdict(row) for row in rows])
    unsound = [row for row in rows if not row.sound]
    for row in unsound:
        print(row.state, file=sys.stderr)
    if unsound:
        raise typer.Exit(1)


def _print_table(rows: list[dict[str, Any]]) -> None:
    lines: list[tuple[str, ...]] = [COLUMNS]
    for row in rows:
        row["constants"] = " ".join(f"{name}={value}" for name, value in row["constants"].items())
        row["occupancy"] = f"{row['occupancy']}%"
        lines.append(tuple("-" if row["error"] and c in NUMBERS else str(row[c]) for c in COLUMNS))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = zip(COLUMNS, line, widths, strict=True)
        print("  ".join(c.rjust(w) if name in NUMBERS else c.ljust(w) for name, c, w in cells))


def examine() -> dict[str, Any]:
    """What ``doctor`` prints."""
    from ..kernels import backend
    from ..kernels.paths import cache_root

    chosen = why = error = None
    try:
        chosen, why = backend.current_backend(), backend.why_chosen()
    except (ValueError, RuntimeError) as reason:
        error = str(reason).splitlines()[0].removesuffix("; the backends are")
    cpu = _cpu()
    return {
        "backends": {
            name: {"usable": reason is None, "why_not": reason}
            for name, reason in ((name, backend.why_not(name)) for name in backend.NAMES)
        },
        "chosen": chosen,
        "why": why,
        "error": error or cpu["error"],
        "versions": {"python": platform.python_version()} | _versions(),
        "cpu": cpu,
        "nvrtc": _nvrtc(),
        "cache": str(cache_root()),
    }


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        found[name] = None
        for package in CUPY_PACKAGES if name == "cupy" else (name,):
            try:
                found[name] = version(package)
                break
            except PackageNotFoundError:
                continue
    return found


def _cpu() -> dict[str, Any]:
    """What the CPU backend finds: registers, caches, threads, and whether its code is compiled."""
    from ..kernels.cpu import machine
    from ..kernels.cpu.thread_count import get_num_threads, why_count

    threads = why = error = cold = None
    try:
        threads, why = get_num_threads(), why_count()
    except ValueError as reason:
        error = str(reason)
    if find_spec("numba"):
        from ..kernels.cpu.cache import is_cold

        cold = is_cold()
    limit = machine.cpu_limit()
    return {
        "name": machine.cpu_name(),
        "vector_bytes": machine.vector_bytes(),
        "vector_registers": machine.vector_registers(),
        "cache_bytes": dict(zip(("l1", "l2", "l3"), machine.cache_bytes(), strict=True)),
        "cpus": limit.cpus,
        "cores": limit.cores,
        "quota": limit.quota,
        "threads": threads,
        "why_threads": why,
        "error": error,
        "cold": cold,
    }


def _nvrtc() -> dict[str, str | None]:
    """The compiler of the CUDA kernels: its version, or why it cannot be used."""
    from ..kernels.cuda.compile import nvrtc_version

    try:
        return {"version": ".".join(map(str, nvrtc_version())), "why_not": None}
    except RuntimeError as error:
        return {"version": None, "why_not": str(error)}


def _print(report: dict[str, Any]) -> None:
    print("backends")
    for name, state in report["backends"].items():
        print(f"  {name:<9} {'usable' if state['usable'] else state['why_not']}")
    print(f"chosen: {report['chosen']}: {report['why']}" if report["chosen"] else report["error"])
    versions = (f"{name} {found or 'not installed'}" for name, found in report["versions"].items())
    print(f"versions: {', '.join(versions)}")
    cpu = report["cpu"]
    caches = ", ".join(f"{name} {_size(size)}" for name, size in cpu["cache_bytes"].items())
    registers = f"{cpu['vector_registers']} registers of {cpu['vector_bytes']} bytes"
    print(f"cpu: {cpu['name']}, {registers}, caches of a core: {caches}")
    threads = f"{cpu['threads']}: {cpu['why_threads']}"
    print(f"threads: {cpu['error'] or threads}")
    print(f"nvrtc: {report['nvrtc']['version'] or report['nvrtc']['why_not']}")
    state = {True: "cold: the next run compiles", False: "warm", None: "no Numba"}[cpu["cold"]]
    print(f"cache: {report['cache']} (CPU kernels: {state})")


def _size(size_bytes: int) -> str:
    return f"{size_bytes >> 10} KiB" if size_bytes < 1 << 20 else f"{size_bytes / (1 << 20):g} MiB"
