"""Times of convolutions on a GPU beside its roofline, the model of cost and a peer.

What ``python -m bench.conv2d --backend cuda`` prints; ``gpu.py`` has how it is timed. For each
shape and verb the results are compared first, with the peer's or, without one, with those of our
kernels without tensor cores; where they differ, nothing is timed, and the exit status is 1.

roofline_share is the larger of two floors (operations at the speed of a library's matrix product,
taps on the padding counted; each array moved once at the bandwidth of a copy) by our time. The
ceilings are those of ``convolt.kernels.cuda.gpu``, or with ``--ceilings measured`` this run's.
predicted_share is the time that the model of cost predicts by ours: 1 where the model is right.
"""

import argparse
import sys
from typing import Any

import numpy as np

from convolt.kernels.arrays import dtype_of
from convolt.kernels.backend import current_backend
from convolt.kernels.conv2d import Conv2dSize
from convolt.kernels.conv2d.algorithm import Algorithm
from convolt.kernels.conv2d.algorithm import Problem as Asked
from convolt.kernels.conv2d.choice import choose, use_algorithm
from convolt.kernels.conv2d.cost import floors_s, least_bytes, predict
from convolt.kernels.cuda.gpu import Gpu
from convolt.kernels.precision import use_precision

from . import gpu as device
from .conv2d_sides import PEERS, Prepare, prepare_ours, sum_length
from .measure import Unfit, geomean, print_table, ratio, tracked
from .problems import Problem


def shapes_of(verb: str, size: Conv2dSize) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of the two operands, and of the result."""
    return {
        "fprop": (size.x_shape, size.w_shape, size.y_shape),
        "dgrad": (size.y_shape, size.w_shape, size.x_shape),
        "wgrad": (size.y_shape, size.x_shape, size.w_shape),
    }[verb]


def measure(
    problem: Problem, verb: str, peer: Prepare | None, dtype: str, repeats: int, ceilings: Gpu
) -> dict[str, Any]:
    """Compare, then time one verb of one problem, and return its row of the report.

    Raises:
        Unfit: The results differ by more than rounding.
    """
    size = problem.size
    shapes = shapes_of(verb, size)
    one_bytes = sum(map(np.prod, shapes)) * dtype_of(dtype).itemsize
    sets = [
        [device.operand(shape, dtype, 2 * i + j) for j, shape in enumerate(shapes[:2])]
        for i in range(device.sets_that_fit(int(one_bytes)))
    ]
    ours = [prepare_ours(verb, problem, *arrays) for arrays in sets]
    asked = Asked.of(verb, size, *sets[0])
    theirs = [peer(verb, problem, *arrays) for arrays in sets] if peer else []
    ref = theirs[0]() if peer else _by_simt(verb, problem, sets[0])
    error = device.worst_error(ours[0](), ref, sum_length(verb, size), dtype, asked.precision)
    if not error <= 1:
        raise Unfit(
            f"{problem.network} {problem.name} {verb}: the outputs differ: the worst error is "
            f"{error:.3g} times what rounding explains"
        )
    del ref
    here = device.gpu()
    algorithm = choose(asked, here)
    ours_s, *peer_s = device.medians_s([ours, theirs] if peer else [ours], repeats)
    return {
        "network": problem.network,
        "name": problem.name,
        **{letter: getattr(problem, letter) for letter in ("n", "c", "h", "w", "k", "r", "s")},
        **{name: _pair(getattr(problem, name)) for name in ("stride", "padding", "dilation")},
        "groups": problem.groups,
        "count": problem.count,
        "verb": verb,
        "precision": asked.precision,
        **_figures(asked, algorithm, here, ceilings, ours_s),
        "peer_us": peer_s[0] * 1e6 if peer_s else None,
        "ratio": ratio(ours_s, peer_s[0]) if peer_s else None,
        "sets": len(sets),
        "worst_error": error,
    }


def _by_simt(verb: str, problem: Problem, arrays: list[Any]) -> Any:
    """The reference without a peer."""
    with use_precision("ieee"):
        for family in ("simt", "depthwise"):
            try:
                with use_algorithm(**{f"conv2d_{verb}": family}):
                    return prepare_ours(verb, problem, *arrays)()
            except ValueError:  # the family does not compute this
                continue
    raise Unfit(f"{problem.name} {verb}: neither simt nor depthwise kernels compute it")


def _figures(
    asked: Asked, algorithm: Algorithm, here: Gpu, ceilings: Gpu, ours_s: float
) -> dict[str, Any]:
    """What a time is beside the floors and the model of cost."""
    compute_s, memory_s = floors_s(asked, ceilings)
    floor_s = max(compute_s, memory_s)
    predicted = predict(asked, algorithm, here)
    return {
        "time_us": ours_s * 1e6,
        "tflops": asked.size.flops / ours_s / 1e12,
        "gigabytes_per_s": least_bytes(asked) / ours_s / 1e9,
        "flops_per_byte": asked.size.flops / max(1, least_bytes(asked)),
        "ceiling_tflops": asked.size.flops / compute_s / 1e12 if compute_s else None,
        "floor_us": floor_s * 1e6,
        "limited_by": "compute" if compute_s >= memory_s else "memory",
        "roofline_share": floor_s / ours_s,
        "predicted_us": predicted.time_s * 1e6,
        "predicted_share": predicted.time_s / ours_s,
        "predicted_bound": predicted.bound,
        "algorithm": algorithm.name,
        "splits": algorithm.splits,
    }


def _pair(value: tuple[int, int]) -> str:
    return f"{value[0]}x{value[1]}"


def results(
    todo: list[tuple[Problem, str]], arguments: argparse.Namespace, torch: Any
) -> dict[str, Any]:
    """Measure, and return the part of the report that is a GPU's own.

    Raises:
        Unfit: No result is right.
    """
    peer = PEERS[arguments.peer] if arguments.peer else None
    ceilings = device.gpu()
    if arguments.ceilings == "measured":
        ceilings = device.measured_ceilings(torch, arguments.repeats)
    rows, faults = list[dict[str, Any]](), list[str]()
    for problem, verb in tracked(todo, "conv2d"):
        try:
            options = (arguments.dtype, arguments.repeats, ceilings)
            rows.append(measure(problem, verb, peer, *options))
        except Unfit as fault:  # it is not timed; the others are
            print(f"error: {fault}", file=sys.stderr, flush=True)
            faults.append(str(fault))
    if not rows:
        raise Unfit(faults[0])
    return {
        "gpu_of_model": device.gpu().name,
        "ceilings": arguments.ceilings,
        "ceiling_copy_gigabytes_per_s": ceilings.dram_bytes_s / 1e9,
        "ceiling_bf16_tflops": ceilings.matmul_flops_s / 1e12,
        "results": rows,
        "faults": faults,
        "geomean_roofline_share": geomean(row["roofline_share"] for row in rows),
        "geomean_predicted_share": geomean(row["predicted_share"] for row in rows),
    }


def show(report: dict[str, Any]) -> None:
    """Print a line a shape."""
    from rich.table import Table

    peer = report["peer"]
    title = f"conv2d, {report['network']}: {report['backend']}, {report['dtype']}"
    table = Table("problem", "x (N,C,H,W)", "w (K,R,S)", "stride", "verb", "algorithm", title=title)
    headings = ["us", "TFLOP/s", "GB/s", "of roof", "limit", "predicted us", "of ours"]
    for heading in headings + ([f"{peer} us", "ratio"] if peer else []):
        table.add_column(heading, justify="right")
    for row in report["results"]:
        x, w = (",".join(str(row[i]) for i in letters) for letters in ("nchw", "krs"))
        groups = f" /{row['groups']}" if row["groups"] > 1 else ""
        splits = f" /{row['splits']}" if row["splits"] > 1 else ""
        cells = [row["name"], x, w + groups, row["stride"], row["verb"]]
        cells += [row["algorithm"] + splits, f"{row['time_us']:.1f}", f"{row['tflops']:.1f}"]
        cells += [f"{row['gigabytes_per_s']:.0f}", f"{row['roofline_share']:.0%}"]
        cells += [row["limited_by"], f"{row['predicted_us']:.1f}", f"{row['predicted_share']:.2f}"]
        if peer:
            cells += [f"{row['peer_us']:.1f}", f"{row['ratio']:.2f}"]
        table.add_row(*cells)
    print_table(table, width=180)
    copy, product = report["ceiling_copy_gigabytes_per_s"], report["ceiling_bf16_tflops"]
    of = f"{report['ceilings']}, {report['gpu_of_model']}"
    print(f"ceilings ({of}): copy {copy:.0f} GB/s, bf16 product {product:.0f} TFLOP/s")
    print(f"geomean_roofline_share {report['geomean_roofline_share']:.3f}")
    print(f"geomean_predicted_share {report['geomean_predicted_share']:.3f} (predicted / ours)")
    if current_backend() == "emulator":
        print("an emulator's times say nothing about a GPU")
