"""Time the Python of a training step: ``python -m bench.python_time --help``.

With few images a step takes as long as its Python. To see that time alone, the step is run again
with every kernel replaced by a function that does nothing: what is left is the layers, the engine,
the contracts and the optimizer. An op is one node of the graph, counted once forward and once
backward, or the optimizer's step.

The table shows what each kernel takes when it runs, with the Python of its own.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

import convolt
from convolt import functional, models, optim
from convolt.engine.autograd import Node, _topological_order
from convolt.kernels import backend

from .measure import common_arguments, machine, machine_line, positive, print_table, run_command

INPUT_SHAPE = (1, 28, 28)  # of LeNet-5
CLASSES = 10


class Step:
    """A training step of LeNet-5: forward, cross entropy, backward, SGD with momentum."""

    def __init__(self, images: int, dtype: str) -> None:
        convolt.manual_seed(0)
        random = np.random.default_rng(0)
        self.net = models.build("lenet5", num_classes=CLASSES).to(dtype)
        self.optimizer = optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9)
        self.x = convolt.tensor(random.standard_normal((images, *INPUT_SHAPE)), dtype=dtype)
        self.target = convolt.tensor(random.integers(CLASSES, size=images))

    def loss(self) -> convolt.Tensor:
        """Run forward alone."""
        return functional.cross_entropy(self.net(self.x), self.target)

    def __call__(self) -> float:
        """Make the step and return the loss."""
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def ops(self) -> int:
        """Return how many ops one call runs: forward, backward and the optimizer's."""
        below = _topological_order(self.loss()._node)
        nodes = sum(isinstance(vertex, Node) for vertex in below)
        return 2 * nodes + 1


@contextmanager
def kernels_replaced(by: Any) -> Iterator[None]:
    """Have ``by(op, module)`` stand in for each implementation that has been used."""
    used = dict(backend._modules)
    for (op, name), quiet in used.items():
        backend._modules[op, name] = backend._Quiet(by(op, quiet._module))
    try:
        yield
    finally:
        backend._modules.update(used)


class Nothing:
    """An implementation whose functions do nothing."""

    def __init__(self, op: str, module: Any) -> None:
        pass

    def __getattr__(self, verb: str) -> Any:
        return _nothing


def _nothing(*args: Any, **options: Any) -> None:
    pass


def _timed(times_s: dict[str, list[float]]) -> Any:
    """Return an implementation's stand-in that runs it and notes the time of each call."""

    class Timed:
        def __init__(self, op: str, module: Any) -> None:
            self._op, self._module = op.rpartition(".")[2], module

        def __getattr__(self, verb: str) -> Any:
            kernel = getattr(self._module, verb)
            noted = times_s.setdefault(f"{self._op}.{verb}", [])

            def timed(*args: Any, **options: Any) -> Any:
                start = perf_counter()
                result = kernel(*args, **options)
                noted.append(perf_counter() - start)
                return result

            return timed

    return Timed


def median_s(function: Any, repeats: int) -> float:
    """Return the median time of a call, in seconds."""
    times = []
    for _ in range(repeats):
        start = perf_counter()
        function()
        times.append(perf_counter() - start)
    return median(times)


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the report."""
    step = Step(arguments.batch, arguments.dtype)
    step()  # compile, and use every implementation
    ops = step.ops()
    step_s = median_s(step, arguments.steps)
    with kernels_replaced(Nothing):
        python_s = median_s(step, arguments.steps)
    times_s: dict[str, list[float]] = {}
    with kernels_replaced(_timed(times_s)):
        for _ in range(arguments.steps):
            step()
    rows = [
        {
            "kernel": kernel,
            "calls": len(noted) // arguments.steps,
            "us_per_call": median(noted) * 1e6,
        }
        for kernel, noted in times_s.items()
    ]
    return {
        "benchmark": "python_time",
        "model": "lenet5",
        "batch": arguments.batch,
        "backend": backend.current_backend(),
        "dtype": arguments.dtype,
        "steps": arguments.steps,
        "ops": ops,
        "step_s": step_s,
        "python_s": python_s,
        "python_us_per_op": python_s / ops * 1e6,
        "machine": machine(),
        "results": sorted(rows, key=lambda row: -row["calls"] * row["us_per_call"]),
    }


def show(report: dict[str, Any]) -> None:
    """Print the report as a table."""
    from rich.table import Table

    title = f"{report['model']}, batch {report['batch']}, {report['backend']}, {report['dtype']}"
    table = Table("kernel", title=title)
    for heading in ("calls", "us a call"):
        table.add_column(heading, justify="right")
    for row in report["results"]:
        table.add_row(row["kernel"], str(row["calls"]), f"{row['us_per_call']:.1f}")
    print_table(table)
    print(
        f"a step takes {report['step_s'] * 1e6:.0f} us; without its kernels "
        f"{report['python_s'] * 1e6:.0f} us, {report['python_us_per_op']:.1f} us for each of "
        f"{report['ops']} ops"
    )
    print(machine_line(report["machine"]))


def main() -> int:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.python_time", description="Time the Python of a training step."
    )
    parser.add_argument("--batch", type=positive, default=1, help="images a step")
    parser.add_argument("--steps", type=positive, default=200, help="steps of each measurement")
    common_arguments(parser)
    return run_command(parser.parse_args(), benchmark, show)


if __name__ == "__main__":
    sys.exit(main())
