"""Show how time grows, beside the roofline of the same machine: ``python -m bench.scaling --help``.

    python -m bench.scaling                             # batch, channels, image and threads
    python -m bench.scaling --vary threads --points 4

One number at a time is varied, of a 3x3 convolution (three verbs) and of a training step of
ResNet-20; the others stay where BASE has them. floor_s is the time that the roofline leaves: of a
convolution the longer of its operations at the speed of multiply-adds and its least bytes at the
bandwidth of a copy, both measured here with as many threads (``roofs.py``); of a step, the sum of
that over the convolutions of its network, each with its verbs. share_of_roofline is floor_s by our
time. exponent is that of the growth from the row before: 1 where time doubles with the number, 2
where it quadruples, -1 where twice the threads take half of it; floor_exponent is the floor's.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from convolt import layers
from convolt.kernels.backend import current_backend
from convolt.kernels.conv2d import Conv2dSize
from convolt.kernels.cpu.thread_count import set_num_threads

from .conv2d_sides import VERBS, operands, prepare_ours
from .measure import (
    Unfit,
    common_arguments,
    interleaved,
    machine,
    machine_line,
    normal,
    positive,
    print_table,
    run_command,
    threads,
)
from .models import CLASSES, resnet20
from .problems import Problem
from .roofs import conv2d_floors_s, copy_bytes_s, fma_flops_s, roofs_line
from .training_step import step_of

BASE = {
    "conv2d": {"batch": 32, "channels": 64, "image": 32},
    "training_step": {"batch": 32, "channels": 16, "image": 32},
}
"""Images, channels (in and out; of the first stage of ResNet-20), pixels of an edge."""

VALUES = {
    "conv2d": {
        "batch": (1, 2, 4, 8, 16, 32, 64),
        "channels": (8, 16, 32, 64, 128, 256),
        "image": (8, 16, 32, 64, 128),
    },
    "training_step": {
        "batch": (1, 2, 4, 8, 16, 32, 64, 128),
        "channels": (4, 8, 16, 32, 64),
        "image": (8, 16, 32, 64),
    },
}
VARIED = ("batch", "channels", "image", "threads")

Row = dict[str, Any]


def floor_s(size: Conv2dSize, dtype: str, repeats: int) -> float:
    """Return the least time of one verb of a convolution, by the roofline."""
    peak, copy = _roofs(threads(), dtype, repeats)
    return max(conv2d_floors_s(size, dtype, peak, copy))


@cache
def _roofs(count: int, dtype: str, repeats: int) -> tuple[float, float]:
    """Measure both roofs for this number of threads, once."""
    return fma_flops_s(dtype, repeats), copy_bytes_s(repeats)


def convolutions(at: dict[str, int], dtype: str, repeats: int) -> Iterator[Row]:
    """Time the verbs of one convolution."""
    n, c, pixels = at["batch"], at["channels"], at["image"]
    shape = (n, c, pixels, pixels, c, 3, 3)
    problem = Problem("scaling", "conv", *shape, stride=(1, 1), padding=(1, 1))
    for verb in VERBS:
        call = prepare_ours(verb, problem, *operands(verb, problem.size, dtype))
        ours_s = interleaved([call], repeats)[0]
        yield {"of": verb, "ours_s": ours_s, "floor_s": floor_s(problem.size, dtype, repeats)}


def training_steps(at: dict[str, int], dtype: str, repeats: int) -> Iterator[Row]:
    """Time a training step of ResNet-20, and add up the floors of its convolutions."""
    n, pixels = at["batch"], at["image"]
    net = resnet20(layers, at["channels"]).to(dtype)
    floors: list[float] = []

    def note(layer: layers.Conv2d, inputs: Any, output: Any) -> None:
        images, c, h, w = inputs[0].shape
        k, c, r, s = layer.weight.shape
        window = {"stride": layer.stride, "padding": layer.padding}
        size = Conv2dSize.of((images, h, w, c), (k, r, s, c), **window)
        verbs = 3 if floors else 2  # the images have no gradient
        floors.append(verbs * floor_s(size, dtype, repeats))

    convs = [module for module in net.modules() if isinstance(module, layers.Conv2d)]
    hooks = [module.register_forward_hook(note) for module in convs]
    random = np.random.default_rng(0)
    labels = random.integers(CLASSES, size=n)
    step = step_of(net, normal(random, (n, pixels, pixels, 3), dtype), labels)
    step()
    for hook in hooks:
        hook.remove()
    ours_s = interleaved([step], repeats)[0]
    yield {"of": "training_step", "ours_s": ours_s, "floor_s": sum(floors)}


TARGETS = {"conv2d": convolutions, "training_step": training_steps}


def sweep(target: str, vary: str, points: int | None, dtype: str, repeats: int) -> list[Row]:
    """Vary one number and return the rows."""
    most = threads()
    counts = sorted({min(most, 1 << i) for i in range(most.bit_length() + 1)})
    values = counts if vary == "threads" else VALUES[target][vary]
    rows: list[Row] = []
    last: dict[str, Row] = {}
    for value in values[:points]:
        at = BASE[target] | {"threads": most} | {vary: value}
        set_num_threads(at["threads"])
        try:
            found = list(TARGETS[target](at, dtype, repeats))
        finally:
            set_num_threads(most)
        for row in found:
            row = {"of": row["of"], "varied": vary, **at, **row}
            before = last.get(row["of"])
            for name, time in (("exponent", "ours_s"), ("floor_exponent", "floor_s")):
                row[name] = None
                if before:
                    growth = math.log(row[time] / before[time])
                    row[name] = growth / math.log(value / before[vary])
            row["share_of_roofline"] = row["floor_s"] / row["ours_s"]
            last[row["of"]] = row
            rows.append(row)
    return rows


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure every sweep and return the report."""
    if current_backend() == "cuda":
        raise Unfit("--backend cuda: the roofline is a CPU's")
    dtype, repeats = arguments.dtype, arguments.repeats
    rows = [
        row
        for vary in dict.fromkeys(arguments.vary or VARIED)
        for target in TARGETS
        for row in sweep(target, vary, arguments.points, dtype, repeats)
    ]
    peak, copy = _roofs(threads(), dtype, repeats)
    facts = machine()
    facts["threads_most"] = facts.pop("threads")  # rows have their own
    return {
        "benchmark": "scaling",
        "backend": current_backend(),
        "dtype": dtype,
        "repeats": repeats,
        "fma_gflops": peak / 1e9,
        "copy_gigabytes_per_s": copy / 1e9,
        "machine": facts,
        "results": rows,
    }


def show(report: dict[str, Any]) -> None:
    """Print the report as a table."""
    from rich.table import Table

    table = Table(title=f"growth of time: {report['backend']}, {report['dtype']}")
    for heading in ("of", "varied"):
        table.add_column(heading)
    headings = ("to", "ms", "exponent", "roofline's", "share of roofline")
    for heading in headings:
        table.add_column(heading, justify="right")
    ordered = sorted(report["results"], key=lambda row: VARIED.index(row["varied"]))
    kinds = dict.fromkeys((row["varied"], row["of"]) for row in ordered)
    for varied, of in kinds:
        table.add_section()
        for row in ordered:
            if (row["varied"], row["of"]) == (varied, of):
                exponents = (row["exponent"], row["floor_exponent"])
                cells = [str(row[varied]), f"{row['ours_s'] * 1e3:.3f}"]
                cells += ["" if power is None else f"{power:.2f}" for power in exponents]
                table.add_row(of, varied, *cells, f"{row['share_of_roofline']:.0%}")
    print_table(table)
    print(roofs_line(report))
    print(machine_line(report["machine"]))


def main() -> int:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scaling", description="Show how time grows with sizes and threads."
    )
    parser.add_argument(
        "--vary", action="append", choices=VARIED, help="only this; may be repeated"
    )
    parser.add_argument("--points", type=positive, help="of each, only so many, the least ones")
    parser.add_argument("--repeats", type=positive, default=5, help="turns of each")
    common_arguments(parser)
    return run_command(parser.parse_args(), benchmark, show)


if __name__ == "__main__":
    sys.exit(main())
