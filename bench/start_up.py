"""Time the first training step of a new process: ``python -m bench.start_up --help``.

A cold start finds no compiled code, as on a new machine or after an update; a warm one finds what
the cold one left. Each is a process of its own:

    process_s     from its start to its end, the interpreter's own included
    import_s      import convolt
    first_step_s  building the model, and the first step: what it compiles, or reads from disk
    compile_s     of that, in Numba; compiled is the number of functions
    step_s        the third step

Of the warm starts, the median by process_s is shown.
"""

import argparse
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from .measure import (
    Unfit,
    common_arguments,
    current_backend,
    machine,
    machine_line,
    positive,
    run_command,
)
from .models import CLASSES, INPUT_SHAPE, MODELS

ROOT = Path(__file__).parent.parent
COLUMNS = ("process_s", "import_s", "first_step_s", "compile_s", "compiled", "step_s")
PROCESS = """
import json, sys
from time import perf_counter
start_s = perf_counter()
import convolt
import_s = perf_counter() - start_s
from bench.start_up import steps
print(json.dumps({"import_s": import_s} | steps(*sys.argv[1:])))
"""


def steps(model: str, images: str, backend: str, dtype: str) -> dict[str, Any]:
    """Take three training steps in this process and return how long they took."""
    import numpy as np

    import convolt
    from convolt import functional, layers, optim

    from .models import build

    convolt.use_backend(backend)
    start_s = perf_counter()
    compiled = _Compiled() if backend == "numba" else None
    net = build(model, layers).to(dtype)
    optimizer = optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    height, width, channels = INPUT_SHAPE[model]
    x = convolt.randn(int(images), channels, height, width).to(dtype)
    target = convolt.tensor(np.arange(int(images)) % CLASSES)
    times_s = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = functional.cross_entropy(net(x), target)
        loss.backward()
        optimizer.step()
        loss.item()
        times_s.append(perf_counter() - start_s)
        start_s = perf_counter()
    return {
        "first_step_s": times_s[0],
        "compile_s": compiled.time_s if compiled else None,
        "compiled": compiled.count if compiled else None,
        "step_s": times_s[2],
    }


class _Compiled:
    """Counts what Numba compiles from now on. One function may have others compiled meanwhile."""

    def __init__(self) -> None:
        self.count, self.time_s = 0, 0.0
        self._depth, self._start_s = 0, 0.0
        event = import_module("numba.core.event")
        listener = type(
            "Listener",
            (event.Listener,),
            {"on_start": lambda _, __: self._begin(), "on_end": lambda _, __: self._end()},
        )
        event.register("numba:compile", listener())

    def _begin(self) -> None:
        self.count += 1
        if self._depth == 0:
            self._start_s = perf_counter()
        self._depth += 1

    def _end(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.time_s += perf_counter() - self._start_s


def start(arguments: argparse.Namespace, cache: str) -> dict[str, Any]:
    """Start a process that takes three steps with compiled code in ``cache``."""
    words = (arguments.model, str(arguments.batch), current_backend(), arguments.dtype)
    start_s = perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, *words],
        cwd=ROOT,
        env=os.environ | {"CONVOLT_CACHE_DIR": cache},
        capture_output=True,
        text=True,
        check=False,
    )
    process_s = perf_counter() - start_s
    if done.returncode:
        raise Unfit(f"the process failed:\n{done.stderr}")
    return {"process_s": process_s} | json.loads(done.stdout)


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the report."""
    with TemporaryDirectory(prefix="convolt-start-up-") as cache:
        cold = start(arguments, cache)
        warm = [start(arguments, cache) for _ in range(arguments.repeats)]
    warm.sort(key=lambda one: one["process_s"])
    return {
        "benchmark": "start_up",
        "model": arguments.model,
        "batch": arguments.batch,
        "backend": current_backend(),
        "dtype": arguments.dtype,
        "results": [{"start": "cold"} | cold, {"start": "warm"} | warm[len(warm) // 2]],
        "machine": machine(),
    }


def show(report: dict[str, Any]) -> None:
    """Print the report as a table."""
    print("  ".join(("start", *COLUMNS)))
    for row in report["results"]:
        cells = (f"{x:.3f}" if isinstance(x := row[name], float) else f"{x}" for name in COLUMNS)
        widths = (cell.rjust(len(name)) for name, cell in zip(COLUMNS, cells, strict=True))
        print("  ".join((row["start"].ljust(5), *widths)))
    print(machine_line(report["machine"]))


def main() -> int:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.start_up", description="Time the first training step of a process."
    )
    parser.add_argument("--model", choices=MODELS, default="lenet5")
    parser.add_argument("--batch", type=positive, default=128, help="images a step")
    parser.add_argument("--repeats", type=positive, default=3, help="warm starts")
    common_arguments(parser)
    return run_command(parser.parse_args(), benchmark, show)


if __name__ == "__main__":
    sys.exit(main())
