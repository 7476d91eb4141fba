"""Time the ops that memory bounds beside a copy and beside a peer.

    python -m bench.memory_bound --peer torch                       # all ops, 64x64x56x56
    python -m bench.memory_bound --peer torch --op relu --op add --shape 128x16x32x32

The outputs are compared first, and a difference beyond rounding ends the run; then both sides take
turns on the same random arrays, channels last, with the same number of threads. Both make new
results at each call, as whoever calls them gets them, except where an op works in place.

gigabytes_per_s is the least bytes of the op (``memory_ops.py``) by our time; share_of_copy is that
by copy_gigabytes_per_s, the bandwidth of a copy of an array of this size, the best of several
(``roofs.py``; on a GPU CuPy's). The copy takes turns with the op: on a machine that is not alone,
bandwidth changes from second to second. ratio = peer_s / ours_s: above 1 we are faster.

A GPU (backends ``cuda``, and ``emulator`` in its place) is timed as ``gpu.py`` says, with L2 cold;
``bench.roofline`` says what its kernels move by their own formulas.
"""

import argparse
import sys
from statistics import median
from typing import Any

import numpy as np

from convolt.kernels.backend import array_module, current_backend

from . import gpu
from .measure import (
    UNIT,
    Unfit,
    common_arguments,
    geomean,
    interleaved,
    machine,
    machine_line,
    positive,
    print_table,
    ratio,
    require_torch,
    run_command,
    to_host,
    tracked,
)
from .memory_case import Case, Operands
from .memory_ops import OPS
from .roofs import Copy, best_copy

SHAPE = (64, 64, 56, 56)


def compare(name: str, case: Case, got: Any, ref: Any) -> None:
    """Compare the results of both sides.

    Both round, and add up ``sums`` numbers in some order: |got - ref| <= 8 u sqrt(sums) max|ref|.

    Raises:
        Unfit: They differ by more.
    """
    pairs = case.comparable(got, ref)
    ours, theirs = (side if isinstance(side, tuple | list) else (side,) for side in pairs)
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if not isinstance(b, np.ndarray) and b.ndim == 4:
            b = b.permute(0, 2, 3, 1)
        a, b = to_host(a), to_host(b)
        bound = 8 * UNIT.get(b.dtype.name, 0) * np.sqrt(case.sums) * np.max(np.abs(b), initial=0)
        if a.shape != b.shape or not np.max(np.abs(a * 1.0 - b), initial=0) <= bound:
            raise Unfit(f"{name}: the outputs differ (result {i})")


def measure(name: str, on: Operands, copy: Copy, torch: Any, repeats: int) -> dict[str, Any]:
    """Compare, then time one op, and return its row of the report.

    Raises:
        Unfit: The outputs differ by more than rounding.
    """
    case = OPS[name](on)
    sides = [case.ours]
    if torch is not None:
        sides.append(case.theirs(torch))
        compare(name, case, *(side() for side in sides))
    sides.append(copy.call)
    if current_backend() in gpu.BACKENDS:
        times_s = gpu.medians_s([[side] for side in sides], repeats)
    else:
        times_s = interleaved(sides, repeats)
    ours_s, *peer_s, copy_s = times_s
    rate, copy_rate = case.bytes / ours_s / 1e9, copy.bytes / copy_s / 1e9
    return {
        "op": name,
        "ours_s": ours_s,
        "peer_s": peer_s[0] if peer_s else None,
        "ratio": ratio(ours_s, peer_s[0]) if peer_s else None,
        "bytes": case.bytes,
        "gigabytes_per_s": rate,
        "copy_gigabytes_per_s": copy_rate,
        "share_of_copy": rate / copy_rate,
    }


def gpu_copy(on: Operands) -> Copy:
    """Return the copy of images into others, on a GPU."""
    x, module = on.images(), array_module()
    y = module.empty_like(x)
    return Copy(lambda: module.copyto(y, x), 2 * x.nbytes, 0.0)


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure every op and return the report."""
    torch = require_torch() if arguments.peer else None
    on = Operands(arguments.shape, arguments.dtype)
    on_gpu = current_backend() in gpu.BACKENDS
    copy = gpu_copy(on) if on_gpu else best_copy(on.moved(on.nhwc))
    names = tracked(arguments.op or list(OPS), "memory_bound")
    rows = [measure(name, on, copy, torch, arguments.repeats) for name in names]
    return {
        "benchmark": "memory_bound",
        "shape": "x".join(map(str, arguments.shape)),
        "backend": current_backend(),
        "peer": arguments.peer,
        "dtype": arguments.dtype,
        "repeats": arguments.repeats,
        "machine": machine(),
        "results": rows,
        "geomean_ratio": geomean(row["ratio"] for row in rows),
    }


def show(report: dict[str, Any]) -> None:
    """Print the report as a table."""
    from rich.table import Table

    peer = report["peer"]
    title = f"memory-bound ops, {report['shape']}: {report['backend']}, {report['dtype']}"
    table = Table("op", title=title)
    headings = ["ours ms", "MB", "GB/s", "of a copy's", *([f"{peer} ms", "ratio"] if peer else [])]
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in report["results"]:
        cells = [f"{row['ours_s'] * 1e3:.3f}", f"{row['bytes'] / 1e6:.1f}"]
        cells += [f"{row['gigabytes_per_s']:.1f}", f"{row['share_of_copy']:.0%}"]
        if peer:
            cells += [f"{row['peer_s'] * 1e3:.3f}", f"{row['ratio']:.2f}"]
        table.add_row(row["op"], *cells)
    print_table(table)
    copies = [row["copy_gigabytes_per_s"] for row in report["results"]]
    print(f"copy {min(copies):.0f} to {max(copies):.0f} GB/s, in the median {median(copies):.0f}")
    if peer:
        below = [row["op"] for row in report["results"] if row["ratio"] < 1]
        print(f"geomean_ratio {report['geomean_ratio']:.3f} ({peer} / ours)")
        print(f"below 1: {', '.join(below) or 'none'}")
    print(machine_line(report["machine"]))


def image_shape(text: str) -> tuple[int, ...]:
    """Read N x C x H x W from the command line."""
    numbers = tuple(positive(part) for part in text.split("x"))
    if len(numbers) != 4:
        raise argparse.ArgumentTypeError(f"must be NxCxHxW, got {text}")
    return numbers


def main() -> int:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.memory_bound", description="Time the ops that memory bounds."
    )
    parser.add_argument("--op", action="append", choices=OPS, help="only this one; may be repeated")
    parser.add_argument("--shape", type=image_shape, default=SHAPE, help="NxCxHxW, 64x64x56x56")
    parser.add_argument("--peer", choices=["torch"], help="also time this: ratio = peer / ours")
    parser.add_argument("--repeats", type=positive, default=5, help="turns of each side")
    common_arguments(parser)
    return run_command(parser.parse_args(), benchmark, show)


if __name__ == "__main__":
    sys.exit(main())
