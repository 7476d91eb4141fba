"""Time the convolutions of a network, beside a peer: ``python -m bench.conv2d --help``.

For each shape and verb the outputs are compared first, and a difference beyond rounding ends the
run; then both sides take turns on the same random arrays with the same number of threads.

ratio = peer_s / ours_s: above 1 we are faster. geomean_ratio is their geometric mean over shapes
and verbs, each once (``count``, how often a network has the shape, does not weigh). gflops is
billions of floating-point operations a second of ours, taps on the padding counted.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from convolt.kernels import conv2d
from convolt.kernels.arrays import Array
from convolt.kernels.backend import array_module, current_backend, use_backend
from convolt.kernels.conv2d import Conv2dSize

from .measure import (
    Unfit,
    common_arguments,
    geomean,
    interleaved,
    machine,
    machine_line,
    positive,
    ratio,
    require_torch,
    run_command,
    to_host,
    worst_error,
)
from .problems import NETWORKS, Problem, problems

VERBS = ("fprop", "dgrad", "wgrad")

Call = Callable[[], Any]
Prepare = Callable[[str, Problem, Array, Array], Call]


def operands(verb: str, size: Conv2dSize, dtype: str) -> tuple[Array, Array]:
    """Return the two arrays of a verb, random, where the backend computes.

    They are (x, w), (grad_y, w) or (grad_y, x).
    """
    shapes = {
        "fprop": (size.x_shape, size.w_shape),
        "dgrad": (size.y_shape, size.w_shape),
        "wgrad": (size.y_shape, size.x_shape),
    }
    random = np.random.default_rng(0)
    kind = np.dtype(dtype).type
    module = array_module()
    first, second = (
        module.asarray(random.standard_normal(shape, dtype=kind)) for shape in shapes[verb]
    )
    return first, second


def sum_length(verb: str, size: Conv2dSize) -> int:
    """Return the number of products that one element of the verb's result sums."""
    return {
        "fprop": size.r * size.s * size.c // size.groups,
        "dgrad": size.r * size.s * size.k // size.groups,
        "wgrad": size.n * size.p * size.q,
    }[verb]


# A side prepares a call on the given arrays, which returns an array in our layout.


def prepare_ours(verb: str, problem: Problem, first: Array, second: Array) -> Call:
    """Prepare a call of our kernel on the current backend."""
    size = problem.size
    if verb == "fprop":
        return lambda: conv2d.fprop(first, second, None, size)
    kernel = {"dgrad": conv2d.dgrad, "wgrad": conv2d.wgrad}[verb]
    return lambda: kernel(first, second, size)


def prepare_definition(verb: str, problem: Problem, first: Array, second: Array) -> Call:
    """Prepare a call of our definition, the numpy backend."""
    kernel = prepare_ours(verb, problem, to_host(first), to_host(second))

    def call() -> np.ndarray:
        with use_backend("numpy"):
            return kernel()

    return call


def prepare_torch(verb: str, problem: Problem, first: Array, second: Array) -> Call:
    """Prepare a call of PyTorch on views of the same memory, which it calls channels_last."""
    torch = require_torch()
    size = problem.size
    a, b = (torch.from_dlpack(array).permute(0, 3, 1, 2) for array in (first, second))

    def like(shape: tuple[int, ...]) -> Any:  # an operand of which only the shape is read
        n, h, w, c = shape
        like_a = {"dtype": a.dtype, "device": a.device}
        return torch.empty(n, c, h, w, **like_a, memory_format=torch.channels_last)

    window = (problem.stride, problem.padding, problem.dilation)
    if verb == "fprop":
        run = torch.nn.functional.conv2d
        return lambda: run(a, b, None, *window, problem.groups).permute(0, 2, 3, 1)
    dgrad = verb == "dgrad"
    x, w = (like(size.x_shape), b) if dgrad else (b, like(size.w_shape))
    options = (None, *window, False, (0, 0), problem.groups, (dgrad, not dgrad, False))
    run, index = torch.ops.aten.convolution_backward, 0 if dgrad else 1
    return lambda: run(a, x, w, *options)[index].permute(0, 2, 3, 1)


PEERS: dict[str, Prepare] = {"torch": prepare_torch, "numpy": prepare_definition}


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
    module = array_module()
    absolute = (module.asarray(np.abs(to_host(array))) for array in (first, second))
    magnitude = reference(verb, problem, *absolute)
    got, ref, bound = (to_host(call()) for call in (ours, theirs, magnitude))
    error = worst_error(got, ref, bound, sum_length(verb, problem.size))
    if not error <= 1:
        raise Unfit(
            f"{problem.network} {problem.name} {verb}: the outputs differ: the worst error is "
            f"{error:.3g} times what rounding explains"
        )
    del magnitude, got, ref, bound
    on_gpu = current_backend() == "cuda"
    ours_s, *peer_s = interleaved([ours, theirs] if peer else [ours], repeats, on_gpu=on_gpu)
    return {
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


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure every problem of the network and return the report."""
    from rich.console import Console
    from rich.progress import track

    peer = PEERS[arguments.peer] if arguments.peer else None
    if arguments.peer == "torch":
        require_torch()
    verbs = [arguments.verb] if arguments.verb else VERBS
    listed = problems(arguments.network, arguments.batch)
    if unknown := set(arguments.layer or ()) - {problem.name for problem in listed}:
        names = ", ".join(problem.name for problem in listed)
        raise Unfit(f"--layer {unknown.pop()}: {arguments.network} has {names}")
    wanted = [p for p in listed if not arguments.layer or p.name in arguments.layer]
    todo = [(problem, verb) for problem in wanted for verb in verbs]
    console = Console(stderr=True)
    rows = [
        measure(problem, verb, peer, arguments.dtype, arguments.repeats)
        for problem, verb in track(
            todo, "conv2d", console=console, transient=True, disable=not console.is_terminal
        )
    ]
    return {
        "benchmark": "conv2d",
        "network": arguments.network,
        "backend": current_backend(),
        "peer": arguments.peer,
        "dtype": arguments.dtype,
        "repeats": arguments.repeats,
        "machine": machine(),
        "results": rows,
        "geomean_ratio_by_verb": {
            verb: geomean(row["ratio"] for row in rows if row["verb"] == verb) for verb in verbs
        },
        "geomean_ratio": geomean(row["ratio"] for row in rows),
    }


def show(report: dict[str, Any]) -> None:
    """Print the report as a table."""
    from rich.console import Console
    from rich.table import Table

    peer = report["peer"]
    table = Table(title=f"conv2d, {report['network']}: {report['backend']}, {report['dtype']}")
    table.add_column("problem")
    table.add_column("x (N,C,H,W)")
    table.add_column("w (K,R,S)")
    for heading in ("stride", "verb", "ours ms", "GFLOP/s"):
        table.add_column(heading, justify="left" if heading == "verb" else "right")
    if peer:
        table.add_column(f"{peer} ms", justify="right")
        table.add_column("ratio", justify="right")
    for row in report["results"]:
        x, w = (",".join(str(row[i]) for i in letters) for letters in ("nchw", "krs"))
        groups = f" /{row['groups']}" if row["groups"] > 1 else ""
        cells = [row["name"], x, w + groups, row["stride"], row["verb"]]
        cells += [f"{row['ours_s'] * 1e3:.3f}", f"{row['gflops']:.1f}"]
        if peer:
            cells += [f"{row['peer_s'] * 1e3:.3f}", f"{row['ratio']:.2f}"]
        table.add_row(*cells)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    if peer:
        by_verb = report["geomean_ratio_by_verb"].items()
        parts = ", ".join(f"{verb} {value:.2f}" for verb, value in by_verb)
        print(f"geomean_ratio {report['geomean_ratio']:.3f} ({peer} / ours; {parts})")
    print(machine_line(report["machine"]))


def main() -> int:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.conv2d", description="Time the convolutions of a network."
    )
    parser.add_argument("--network", choices=NETWORKS, required=True)
    parser.add_argument("--peer", choices=PEERS, help="also time this: ratio = peer / ours")
    parser.add_argument("--verb", choices=VERBS, help="all three if left out")
    parser.add_argument("--layer", action="append", help="only this one; may be repeated")
    parser.add_argument("--batch", type=positive, help="images; see problems.DEFAULT_BATCH")
    parser.add_argument("--repeats", type=positive, default=7, help="turns of each side")
    common_arguments(parser)
    return run_command(parser.parse_args(), benchmark, show)


if __name__ == "__main__":
    sys.exit(main())
