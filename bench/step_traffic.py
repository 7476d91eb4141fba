"""Add up the bytes that one training step moves: ``python -m bench.step_traffic --help``.

A step is forward, cross entropy, backward and SGD with momentum. Its launches are made one after
the other but not run: each kernel's Traffic formulas say what it would move to and from DRAM, where
caches hold what is read again, so that a step of ResNet-50 takes seconds and no GPU. The formulas
are held against the emulator's counters by tests/kernels/test_traffic.py.

Bytes are those of all launches, and by image, grouped by op (the folder of the kernel).
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import convolt
from convolt import functional, models, optim
from convolt.kernels.cuda.launch import Kernel
from convolt.kernels.layout import channels_first
from convolt.kernels.precision import use_precision

from .measure import machine, positive, print_table, run_command

CLASSES = 10
PRECISION = {"float32": "ieee", "bfloat16": "bf16"}

Launched = tuple[str, str, float, float]  # op, entry point, bytes read, bytes written


@contextmanager
def not_run() -> Iterator[list[Launched]]:
    """Collect what the launches of this block would move, instead of running them."""
    launches: list[Launched] = []
    launch = Kernel.launch

    def collecting(kernel: Kernel, grid: Any, *arguments: Any, **options: Any) -> None:
        constants = {name: value for name, value in options.items() if name != "shared_bytes"}
        if 0 not in np.atleast_1d(grid):
            moved = kernel.traffic(grid, *arguments, dram=True, **constants)
            launches.append((kernel.path.parent.name, kernel.entry, *moved))

    Kernel.launch = collecting
    try:
        yield launches
    finally:
        Kernel.launch = launch


def step_of(net: Any, images: int, image: tuple[int, int, int]) -> list[Launched]:
    """Return the launches of one training step of a network.

    Args:
        net: Of the backend ``emulator``.
        images: Of the batch.
        image: H, W, C.
    """
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    x = convolt.Tensor(channels_first(np.zeros((images, *image), np.float32)))
    target = convolt.Tensor(np.zeros(images, np.int64))
    for parameter in net.parameters():  # the flat buffers, and a state that is not the first
        parameter.grad = convolt.Tensor(np.zeros_like(parameter.numpy()))
    with not_run():
        optimizer.step()
    with not_run() as launches:
        optimizer.zero_grad()
        functional.cross_entropy(net(x), target).backward()
        optimizer.step()
    return launches


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """Add up and return the report."""
    h, w, c = arguments.image
    with use_precision(PRECISION[arguments.dtype]):
        net = models.build(arguments.model)
        launches = step_of(net, arguments.batch, (h, w, c))
    by_entry: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for op, entry, reads, writes in launches:
        total = by_entry[op, entry]
        for i, value in enumerate((1, reads, writes)):
            total[i] += value
    rows = [
        {
            "op": op,
            "kernel": entry,
            "launches": int(count),
            "read_megabytes_per_image": reads / arguments.batch / 1e6,
            "write_megabytes_per_image": writes / arguments.batch / 1e6,
        }
        for (op, entry), (count, reads, writes) in sorted(by_entry.items())
    ]
    convolutions = sum(_megabytes(row) for row in rows if row["op"] == "conv2d")
    everything = sum(map(_megabytes, rows))
    return {
        "benchmark": "step_traffic",
        "model": arguments.model,
        "batch": arguments.batch,
        "image": [h, w, c],
        "dtype": arguments.dtype,
        "results": rows,
        "conv_megabytes_per_image": convolutions,
        "other_megabytes_per_image": everything - convolutions,
        "megabytes_per_image": everything,
        "machine": machine(),
    }


def _megabytes(row: dict[str, Any]) -> float:
    return row["read_megabytes_per_image"] + row["write_megabytes_per_image"]


def show(report: dict[str, Any]) -> None:
    """Print the report as a table."""
    from rich.table import Table

    table = Table(
        "op",
        "kernel",
        title=f"{report['model']}, batch {report['batch']}, {report['dtype']}: MB an image",
    )
    for heading in ("launches", "read", "written"):
        table.add_column(heading, justify="right")
    for row in report["results"]:
        moved = row["read_megabytes_per_image"], row["write_megabytes_per_image"]
        table.add_row(
            row["op"], row["kernel"], str(row["launches"]), *(f"{value:.2f}" for value in moved)
        )
    print_table(table)
    print(
        f"convolutions {report['conv_megabytes_per_image']:.1f}, the rest "
        f"{report['other_megabytes_per_image']:.1f}, together {report['megabytes_per_image']:.1f} "
        "MB an image"
    )


def main() -> int:
    """Read the command line, add up, print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.step_traffic",
        description="Add up the bytes that the launches of a training step move.",
    )
    parser.add_argument("--model", choices=models.names(), default="lenet5")
    parser.add_argument("--batch", type=positive, default=256)
    parser.add_argument("--image", type=positive, nargs=3, default=[28, 28, 1], metavar="N")
    parser.add_argument("--dtype", choices=[*PRECISION], default="float32")
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="also write FILE: .json, or .csv of the rows"
    )
    parser.set_defaults(backend="emulator")  # whose arrays lie on the host
    return run_command(parser.parse_args(), benchmark, show)


if __name__ == "__main__":
    sys.exit(main())
