"""``convolt doctor``: what this machine can run, and what was chosen."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from typer import Option

PACKAGES = ("convolt", "numpy", "numba", "cupy")
CUPY_PACKAGES = ("cupy-cuda13x", "cupy-cuda12x", "cupy")


def doctor(as_json: Annotated[bool, Option("--json", help="Print JSON.")] = False) -> None:
    """Show each backend and why it can or cannot be used, versions, threads and cache.

    Exits with 2 when CONVOLT_BACKEND names a backend that cannot be used.
    """
    report = examine()
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)
    if report["error"]:
        raise typer.Exit(2)


def examine() -> dict[str, Any]:
    """What ``doctor`` prints."""
    from ..kernels import backend

    chosen = why = error = None
    try:
        chosen, why = backend.current_backend(), backend.why_chosen()
    except (ValueError, RuntimeError) as reason:
        error = str(reason).splitlines()[0].removesuffix("; the backends are")
    return {
        "backends": {
            name: {"usable": reason is None, "why_not": reason}
            for name, reason in ((name, backend.why_not(name)) for name in backend.NAMES)
        },
        "chosen": chosen,
        "why": why,
        "error": error,
        "versions": {"python": platform.python_version()} | _versions(),
        "threads": _threads(),
        "cache": _cache(),
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


def _threads() -> int:
    """Threads of the CPU backend: ``NUMBA_NUM_THREADS``, else the cores of this process."""
    if (asked := os.environ.get("NUMBA_NUM_THREADS", "")).isdigit():
        return int(asked)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cache() -> str | None:
    try:
        from ..kernels.jit import cache_dir
    except ImportError:  # no Numba, whose line says so
        return None
    return str(cache_dir())


def _print(report: dict[str, Any]) -> None:
    print("backends")
    for name, state in report["backends"].items():
        print(f"  {name:<9} {'usable' if state['usable'] else state['why_not']}")
    print(f"chosen: {report['chosen']}: {report['why']}" if report["chosen"] else report["error"])
    versions = (f"{name} {found or 'not installed'}" for name, found in report["versions"].items())
    print(f"versions: {', '.join(versions)}")
    print(f"threads: {report['threads']}")
    print(f"kernel cache: {report['cache']}")
