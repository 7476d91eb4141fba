"""Check each family of convolution kernels on hardware, every algorithm that it has.

    python -m bench.families --backend cuda --family mma                  # parity
    python -m bench.families --backend cuda --family wgmma --repeats 1000 # and equal bytes

Operands are small integers, whose sums are exact in float32: the results must have the bits of the
definition, rounded once. With ``--repeats`` each algorithm also computes random numbers so often,
into memory that was filled with NaN before, and all results must have equal bytes: a race that the
emulator cannot see shows here, if anywhere.
"""

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from convolt.kernels.arrays import dtype_of
from convolt.kernels.backend import array_module, current_backend, use_backend
from convolt.kernels.conv2d import Conv2dSize
from convolt.kernels.conv2d.algorithm import VERBS, Algorithm, Problem
from convolt.kernels.conv2d.choice import FAMILIES

from . import gpu
from .conv2d_gpu import shapes_of
from .conv2d_sides import call_of
from .measure import Unfit, common_arguments, machine, positive, run_command, to_host

Shape = tuple[int, ...]

# name: x (N, H, W, C), weights (K, R, S, C), window. What to suspect first, first.
CASES: dict[str, tuple[Shape, Shape, dict[str, Any]]] = {
    "1x1": ((2, 12, 11, 64), (128, 1, 1, 64), {}),
    "3x3": ((2, 12, 11, 64), (64, 3, 3, 64), {"padding": 1}),  # the im2col walk
    "3x3s2": ((3, 13, 12, 64), (128, 3, 3, 64), {"padding": 1, "stride": 2}),
    "1x1s2": ((2, 14, 14, 64), (128, 1, 1, 64), {"stride": 2}),
    "clipped": ((5, 5, 7, 24), (40, 3, 3, 24), {"padding": 1}),  # boxes and stores in part
    "long": ((1, 9, 9, 512), (256, 3, 3, 512), {"padding": 1}),
    "dilated": ((1, 11, 10, 64), (64, 3, 3, 64), {"padding": 2, "dilation": 2}),
    "stem": ((2, 31, 31, 8), (64, 7, 7, 8), {"padding": 3, "stride": 2}),
    "many_pixels": ((8, 28, 28, 64), (64, 3, 3, 64), {"padding": 1}),
    "odd_channels": ((2, 9, 10, 3), (20, 5, 5, 3), {"padding": 2}),
    "groups": ((2, 8, 8, 32), (32, 3, 3, 8), {"padding": 1, "groups": 4}),
    "depthwise": ((2, 9, 8, 24), (24, 3, 3, 1), {"padding": 1, "groups": 24}),
}


def algorithms(family: str, problem: Problem) -> tuple[Algorithm, ...]:
    """Return those of a family that compute a problem on the GPU here."""
    module = FAMILIES[family]
    if not module.runs_on(gpu.gpu()):
        raise Unfit(f"--family {family}: it does not run on {gpu.gpu().name}")
    return tuple(a for a in module.algorithms(problem) if a.family == family)


def problems(case: str, family: str) -> Iterator[Problem]:
    """Return a case in every verb, dtype and precision."""
    x_shape, w_shape, window = CASES[case]
    size = Conv2dSize.of(x_shape, w_shape, **window)
    for verb in VERBS:
        for dtype, precision in (("bfloat16", "ieee"), ("float32", "tf32"), ("float32", "ieee")):
            problem = Problem(verb, size, dtype, precision)
            if algorithms(family, problem):
                yield problem


def compute(algorithm: Algorithm, problem: Problem, operands: list[Any]) -> np.ndarray:
    """Return an algorithm's result as bytes on the host, from memory that was NaN before."""
    shape = shapes_of(problem.verb, problem.size)[2]
    itemsize = dtype_of(problem.dtype).itemsize
    nan = np.full((*shape, itemsize), 0xFF, np.uint8)
    out = array_module().asarray(nan).view(dtype_of(problem.dtype)).reshape(shape)
    arguments = [*operands, None, out] if problem.verb == "fprop" else [*operands, out]
    getattr(FAMILIES[algorithm.family], problem.verb)(algorithm, *arguments, problem.size)
    return to_host(out.view(np.uint8))


def check_bits(problem: Problem, algorithm: Algorithm) -> str | None:
    """Return how the result differs from the definition's, or None when it has its bits."""
    rng = np.random.default_rng(0)
    shapes = shapes_of(problem.verb, problem.size)[:2]
    wide = [rng.integers(-3, 4, shape).astype(np.float32) for shape in shapes]
    with use_backend("numpy"):
        expected = call_of(problem.verb, *wide, problem.size)
    dtype, module = dtype_of(problem.dtype), array_module()
    operands = [module.asarray(array.astype(dtype)) for array in wide]
    got = compute(algorithm, problem, operands).view(dtype)
    wrong = got != expected.astype(dtype)  # NaN too; -0 equals 0
    if not wrong.any():
        return None
    first = tuple(int(i) for i in np.argwhere(wrong)[0])
    values = f"{float(got[first])} for {float(expected[first])}"
    return f"{int(wrong.sum())} of {wrong.size} elements differ, the first at {first}: {values}"


def check_repeats(problem: Problem, algorithm: Algorithm, repeats: int) -> str | None:
    """Return after how many results one has other bytes, or None when all are equal."""
    shapes = shapes_of(problem.verb, problem.size)[:2]
    operands = [gpu.operand(shape, problem.dtype, i) for i, shape in enumerate(shapes)]
    first = compute(algorithm, problem, operands)
    for i in range(1, repeats):
        if not np.array_equal(compute(algorithm, problem, operands), first):
            return f"result {i} of {repeats} has other bytes than the first"
    return None


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """Check and return the report.

    Raises:
        Unfit: The backend has no such kernels, or some results were wrong.
    """
    if current_backend() not in gpu.BACKENDS:
        raise Unfit(f"--backend {current_backend()}: the kernels run on cuda or emulator")
    rows, faults = [], list[str]()
    for family in arguments.family or FAMILIES:
        for case in arguments.case or CASES:
            for problem in problems(case, family):
                for algorithm in algorithms(family, problem):
                    fault = check_bits(problem, algorithm)
                    if not fault and arguments.repeats > 1:
                        fault = check_repeats(problem, algorithm, arguments.repeats)
                    what = (case, problem.verb, problem.dtype, problem.precision, algorithm.name)
                    names = ("case", "verb", "dtype", "precision", "algorithm")
                    rows.append(dict(zip(names, what, strict=True)) | {"fault": fault})
                    if fault:
                        faults.append(f"{' '.join(what)}: {fault}")
                        print(f"error: {faults[-1]}", file=sys.stderr, flush=True)
    if faults:
        raise Unfit(f"{len(faults)} of {len(rows)} checks failed; the first: {faults[0]}")
    if not rows:
        raise Unfit("nothing was checked: no family computes these cases")
    return {
        "benchmark": "families",
        "backend": current_backend(),
        "repeats": arguments.repeats,
        "machine": machine(),
        "checked": len(rows),
        "results": rows,
    }


def show(report: dict[str, Any]) -> None:
    """Print how much was checked."""
    print(f"{report['checked']} algorithms of a problem have the bits of the definition")
    if report["repeats"] > 1:
        print(f"and equal bytes in {report['repeats']} results")


def main() -> int:
    """Read the command line, check, print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.families", description="Check the families of convolution kernels."
    )
    parser.add_argument("--family", action="append", choices=FAMILIES, help="all if left out")
    parser.add_argument("--case", action="append", choices=CASES, help="all if left out")
    parser.add_argument("--repeats", type=positive, default=1, help="results with equal bytes")
    common_arguments(parser)
    return run_command(parser.parse_args(), benchmark, show)


if __name__ == "__main__":
    sys.exit(main())
