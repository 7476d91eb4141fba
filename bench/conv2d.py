"""Time the convolutions of networks, beside a peer: ``python -m bench.conv2d --help``.

    python -m bench.conv2d --network resnet50 --peer torch
    python -m bench.conv2d --network cifar,lenet5 --batch 32 --verb fprop --peer torch
    python -m bench.conv2d --network all-cpu --peer torch     # problems.CPU_BATCH: some 15 minutes
    python -m bench.conv2d --backend cuda --network resnet50 --batch 256 --dtype bfloat16

For each shape and verb the outputs are compared first, and a difference beyond rounding ends the
run; then both sides take turns on the same random arrays with the same number of threads.

ratio = peer_s / ours_s: above 1 we are faster. geomean_ratio is their geometric mean over shapes
and verbs, each once (``count``, how often a network has the shape, does not weigh). gflops is
billions of floating-point operations a second of ours, taps on the padding counted.

On a CPU two roofs are measured in the same run (``roofs.py``), and each row has two floors, below
which no time can lie: compute_floor_s, the operations at the speed of multiply-adds in registers,
and memory_floor_s, each array moved once at the bandwidth of a copy (arrays that lie in a cache
move quicker). Of the operations they count those on pixels of the image: an implementation need not
compute the padding. share_of_peak is compute_floor_s by our time.

A GPU (backends ``cuda``, and ``emulator`` in its place) is timed otherwise, see ``gpu.py``, and has
other columns, see ``conv2d_gpu.py``.
"""

import argparse
import sys
from typing import Any

import numpy as np

from convolt.kernels.backend import current_backend
from convolt.kernels.conv2d import Conv2dSize
from convolt.kernels.precision import use_precision

from . import conv2d_gpu, gpu
from .conv2d_sides import (
    PEERS,
    VERBS,
    Prepare,
    operands,
    prepare_definition,
    prepare_ours,
    sum_length,
)
from .measure import (
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
    worst_error,
)
from .problems import CPU_BATCH, NETWORKS, Problem, problems
from .roofs import conv2d_floors_s, copy_bytes_s, fma_flops_s, roofs_line

ALL_CPU = "all-cpu"


def measure(
    problem: Problem, verb: str, peer: Prepare | None, dtype: str, repeats: int
) -> dict[str, Any]:
    """Compare, then time one verb of one problem, and return its row of the report.

    Without a peer the outputs are compared with the definition's, which is not timed.

    Raises:
        Unfit: The outputs differ by more than rounding.
    """
    first, second = operands(verb, problem.size, dtype)
    ours = prepare_ours(verb, problem, first, second)
    reference = peer or prepare_definition
    theirs = reference(verb, problem, first, second)
    magnitude = reference(verb, problem, np.abs(first), np.abs(second))
    got, ref, bound = (to_host(call()) for call in (ours, theirs, magnitude))
    error = worst_error(got, ref, bound, sum_length(verb, problem.size))
    if not error <= 1:
        raise Unfit(
            f"{problem.network} {problem.name} {verb}: the outputs differ: the worst error is "
            f"{error:.3g} times what rounding explains"
        )
    del magnitude, got, ref, bound
    ours_s, *peer_s = interleaved([ours, theirs] if peer else [ours], repeats)
    return {
        "network": problem.network,
        "name": problem.name,
        **{letter: getattr(problem, letter) for letter in ("n", "c", "h", "w", "k", "r", "s")},
        **{name: _pair(getattr(problem, name)) for name in ("stride", "padding", "dilation")},
        "groups": problem.groups,
        "count": problem.count,
        "verb": verb,
        "ours_s": ours_s,
        "peer_s": peer_s[0] if peer_s else None,
        "ratio": ratio(ours_s, peer_s[0]) if peer_s else None,
        "gflops": problem.size.flops / ours_s / 1e9,
    }


def _pair(value: tuple[int, int]) -> str:
    return f"{value[0]}x{value[1]}"


def roofs(dtype: str, repeats: int) -> dict[str, float]:
    """Measure the roofs of this CPU."""
    return {
        "fma_gflops": fma_flops_s(dtype, repeats) / 1e9,
        "copy_gigabytes_per_s": copy_bytes_s(repeats) / 1e9,
    }


def floors(row: dict[str, Any], size: Conv2dSize, dtype: str, roof: dict[str, Any]) -> None:
    """Add to a row how far it is below the roofs."""
    peak, copy = roof["fma_gflops"], roof["copy_gigabytes_per_s"]
    found = conv2d_floors_s(size, dtype, peak * 1e9, copy * 1e9)
    row["compute_floor_s"], row["memory_floor_s"] = found
    row["share_of_peak"] = found[0] / row["ours_s"]


def chosen(arguments: argparse.Namespace) -> list[Problem]:
    """Return the problems that the command line asks for.

    Raises:
        Unfit: A layer is not in them.
    """
    batches: dict[str, int | None] = {}
    for network in arguments.network:
        batches |= CPU_BATCH if network == ALL_CPU else {network: None}
    listed = [
        problem
        for network, batch in batches.items()
        for problem in problems(network, arguments.batch or batch)
    ]
    if unknown := set(arguments.layer or ()) - {problem.name for problem in listed}:
        names = ", ".join(problem.name for problem in listed)
        raise Unfit(f"--layer {unknown.pop()}: {', '.join(batches)} has {names}")
    return [p for p in listed if not arguments.layer or p.name in arguments.layer]


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure every problem of the networks and return the report.

    Raises:
        Unfit: The backend does not take the dtype or the precision.
    """
    on_gpu = current_backend() in gpu.BACKENDS
    if not on_gpu and (arguments.dtype == "bfloat16" or arguments.precision):
        raise Unfit(f"--backend {current_backend()}: bfloat16 and --precision are a GPU's")
    if arguments.precision:
        use_precision(arguments.precision)
    torch = require_torch() if arguments.peer == "torch" else None
    verbs = [arguments.verb] if arguments.verb else VERBS
    todo = [
        (problem, verb)
        for problem in chosen(arguments)
        for verb in verbs
        if not on_gpu or verb in problem.verbs
    ]
    found = (
        conv2d_gpu.results(todo, arguments, torch) if on_gpu else results_on_cpu(todo, arguments)
    )
    rows = found["results"]

    def geomeans(column: str) -> dict[str, float | None]:
        kinds = dict.fromkeys(row[column] for row in rows)
        return {k: geomean(row["ratio"] for row in rows if row[column] == k) for k in kinds}

    share = "roofline_share" if on_gpu else "share_of_peak"
    return {
        "benchmark": "conv2d",
        "network": ",".join(dict.fromkeys(arguments.network)),
        "backend": current_backend(),
        "peer": arguments.peer,
        "dtype": arguments.dtype,
        "repeats": arguments.repeats,
        **found,
        "machine": machine(),
        "geomean_ratio_by_verb": geomeans("verb"),
        "geomean_ratio_by_network": geomeans("network"),
        "geomean_ratio": geomean(row["ratio"] for row in rows),
        "worst": [
            {key: row[key] for key in ("network", "name", "verb", "ratio", share)}
            for row in sorted(rows, key=lambda row: row["ratio"] or 0)[: arguments.worst]
            if arguments.peer
        ],
    }


def results_on_cpu(
    todo: list[tuple[Problem, str]], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Measure, and return the part of the report that is a CPU's own."""
    peer = PEERS[arguments.peer] if arguments.peer else None
    roof = roofs(arguments.dtype, arguments.repeats)
    rows = []
    for problem, verb in tracked(todo, "conv2d"):
        row = measure(problem, verb, peer, arguments.dtype, arguments.repeats)
        floors(row, problem.size, arguments.dtype, roof)
        rows.append(row)
    return {**roof, "results": rows}


def show(report: dict[str, Any]) -> None:
    """Print the report as a table."""
    peer = report["peer"]
    (conv2d_gpu.show if report["backend"] in gpu.BACKENDS else show_on_cpu)(report)
    if peer:
        by = report["geomean_ratio_by_verb"] | report["geomean_ratio_by_network"]
        parts = ", ".join(f"{kind} {value:.2f}" for kind, value in by.items())
        print(f"geomean_ratio {report['geomean_ratio']:.3f} ({peer} / ours; {parts})")
        for row in report["worst"]:
            print(f"  {row['network']} {row['name']} {row['verb']}: {row['ratio']:.2f}")
    print(machine_line(report["machine"]))


def show_on_cpu(report: dict[str, Any]) -> None:
    """Print the rows, and the roofs of the CPU."""
    from rich.table import Table

    peer = report["peer"]
    table = Table(title=f"conv2d, {report['network']}: {report['backend']}, {report['dtype']}")
    table.add_column("problem")
    table.add_column("x (N,C,H,W)")
    table.add_column("w (K,R,S)")
    for heading in ("stride", "verb", "ours ms", "floors ms", "GFLOP/s", "of peak"):
        table.add_column(heading, justify="left" if heading == "verb" else "right")
    if peer:
        table.add_column(f"{peer} ms", justify="right")
        table.add_column("ratio", justify="right")
    for row in report["results"]:
        x, w = (",".join(str(row[i]) for i in letters) for letters in ("nchw", "krs"))
        groups = f" /{row['groups']}" if row["groups"] > 1 else ""
        cells = [row["name"], x, w + groups, row["stride"], row["verb"]]
        limits = (row["compute_floor_s"], row["memory_floor_s"])
        limits = " ".join(f"{limit * 1e3:.3f}" for limit in limits)
        cells += [f"{row['ours_s'] * 1e3:.3f}", limits, f"{row['gflops']:.1f}"]
        cells.append(f"{row['share_of_peak']:.0%}")
        if peer:
            cells += [f"{row['peer_s'] * 1e3:.3f}", f"{row['ratio']:.2f}"]
        table.add_row(*cells)
    print_table(table, width=140)
    print(roofs_line(report))


def networks(text: str) -> list[str]:
    """Read names of networks from the command line."""
    names = text.split(",")
    for name in names:
        if name not in (*NETWORKS, ALL_CPU):
            known = ", ".join((*NETWORKS, ALL_CPU))
            raise argparse.ArgumentTypeError(f"invalid choice: {name!r} (choose from {known})")
    return names


def main() -> int:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.conv2d", description="Time the convolutions of a network."
    )
    parser.add_argument(
        "--network",
        type=networks,
        action="extend",
        required=True,
        help=f"one or more, with commas: {', '.join(NETWORKS)}; {ALL_CPU}; may be repeated",
    )
    parser.add_argument("--peer", choices=PEERS, help="also time this: ratio = peer / ours")
    parser.add_argument("--verb", choices=VERBS, help="all three if left out")
    parser.add_argument("--layer", action="append", help="only this one; may be repeated")
    parser.add_argument("--batch", type=positive, help="images; see problems.DEFAULT_BATCH")
    parser.add_argument("--repeats", type=positive, default=7, help="turns of each side")
    parser.add_argument("--worst", type=positive, default=5, help="name so many lowest ratios")
    parser.add_argument("--precision", choices=gpu.PRECISIONS, help="of float32 on a GPU; its own")
    parser.add_argument(
        "--ceilings", choices=("known", "measured"), default="known", help="of a GPU's roofline"
    )
    common_arguments(parser, dtypes=gpu.DTYPES)
    return run_command(parser.parse_args(), benchmark, show)


if __name__ == "__main__":
    sys.exit(main())
