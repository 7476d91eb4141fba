"""What the benchmarks share: fair timing, comparing outputs, reports.

Two sides are timed in turns (ours, peer, ours, peer, ...), so that a machine which slows down,
slows both down, and medians are reported.
"""

import argparse
import csv
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any, TypeVar

import numpy as np

from convolt.kernels.backend import NAMES, current_backend, use_backend
from convolt.kernels.cpu import memory
from convolt.kernels.precision import current_precision

Item = TypeVar("Item")

UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}
"""Unit roundoff of each dtype that can be timed."""

TURN_S = 0.02  # least length of a turn, so that short calls give many samples
PAUSE_S = 0.15  # before a turn: the other side's idle threads spin on, OpenBLAS's for 100 ms


def interleaved(
    functions: Sequence[Callable[[], object]], repeats: int, *, on_gpu: bool = False
) -> list[float]:
    """Return the median time of one call of each function, in seconds.

    Each function is called once untimed (it may compile); then the functions take ``repeats``
    turns, one after the other. Each turn begins with an untimed call, which wakes its threads
    and takes the caches back from the other side, and then times call by call.

    On a GPU a turn's calls follow each other in its queue, between two CUDA events, and the turn
    gives one time, their mean. So a call takes as long as its kernels, or as long as Python takes
    to launch them, whichever is longer.
    """
    timed = _queued_s if on_gpu else _each_s
    counts = []
    for function in functions:
        function()
        counts.append(max(1, math.ceil(TURN_S / timed(function, 1)[0])))
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, count, found in zip(functions, counts, times, strict=True):
            if len(functions) > 1 and not on_gpu:
                sleep(PAUSE_S)
            function()
            found.extend(timed(function, count))
    return [median(found) for found in times]


def _each_s(function: Callable[[], object], count: int) -> list[float]:
    times = []
    for _ in range(count):
        start = perf_counter()
        function()
        times.append(perf_counter() - start)
    return times


def _queued_s(function: Callable[[], object], count: int) -> list[float]:
    cuda = import_module("cupy").cuda
    start, end = cuda.Event(), cuda.Event()
    start.record()
    for _ in range(count):
        function()
    end.record()
    end.synchronize()
    return [cuda.get_elapsed_time(start, end) / 1e3 / count]


def normal(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return normally distributed numbers, aligned as the arrays that either side allocates."""
    array = memory.empty(shape, np.dtype(dtype))
    random.standard_normal(dtype=array.dtype.type, out=array)
    return array


def to_host(array: Any) -> np.ndarray:
    """Return a NumPy, CuPy or PyTorch array as a NumPy one."""
    if hasattr(array, "get"):  # CuPy
        return array.get()
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()


def to_torch(torch: Any, array: Any) -> Any:
    """Return PyTorch's view of the memory of a NumPy or CuPy array."""
    if array.dtype.name == "bfloat16":  # which not every DLPack knows
        return torch.from_dlpack(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_dlpack(array)


def ratio(ours_s: float, peer_s: float | None) -> float | None:
    """Return how many times faster than the peer we are; None without a peer."""
    return None if peer_s is None else peer_s / ours_s


def geomean(ratios: Iterable[float | None]) -> float | None:
    """Return the geometric mean of the ratios that there are; None when there are none."""
    logs = [math.log(r) for r in ratios if r is not None]
    return math.exp(sum(logs) / len(logs)) if logs else None


def worst_error(got: np.ndarray, ref: np.ndarray, magnitude: np.ndarray, length: int) -> float:
    """Return the largest error as a share of its bound; above 1, or NaN, the outputs differ.

    Both sides round, so |got - ref| <= 2 c u sqrt(L) magnitude, with c = 4, u the unit roundoff,
    L the ``length`` of the sums and ``magnitude`` the same op on absolute values.
    """
    bound = 8 * UNIT[got.dtype.name] * math.sqrt(length) * magnitude
    error = np.abs(got - ref)
    return float(np.max(error / np.maximum(bound, np.finfo(got.dtype).tiny), initial=0.0))


# Command lines


class Unfit(Exception):
    """A benchmark cannot run here, or its two sides do not agree; the message says why."""


def common_arguments(parser: argparse.ArgumentParser, dtypes: Iterable[str] = UNIT) -> None:
    """Add the options that every benchmark has."""
    parser.add_argument("--backend", choices=NAMES, help="of convolt; its default if left out")
    parser.add_argument("--dtype", choices=list(dtypes), default="float32")
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="also write FILE: .json, or .csv of the rows"
    )


def positive(text: str) -> int:
    """Read a number >= 1 from the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be >= 1, got {number}")
    return number


def run_command(
    arguments: argparse.Namespace,
    benchmark: Callable[[argparse.Namespace], dict[str, Any]],
    show: Callable[[dict[str, Any]], None],
) -> int:
    """Run a benchmark, print and write its report, and return the exit status."""
    try:
        if arguments.output is not None and arguments.output.suffix not in (".json", ".csv"):
            raise Unfit(f"--output {arguments.output}: the file must end in .json or .csv")
        _choose_backend(arguments.backend)
        before_s = _cpu_elsewhere_s()
        start_s = perf_counter()
        report = benchmark(arguments)
        if before_s is not None and (after_s := _cpu_elsewhere_s()) is not None:
            busy = max(0.0, after_s - before_s) / (perf_counter() - start_s)
            report["machine"]["cpus_busy_elsewhere"] = round(busy, 2)
    except Unfit as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)
    if arguments.output is not None:
        _write(arguments.output, report)
    return 1 if report.get("faults") else 0


def _choose_backend(name: str | None) -> None:
    try:
        use_backend(name or current_backend())
    except (RuntimeError, ValueError) as error:  # it, or CONVOLT_BACKEND, is not usable here
        raise Unfit(str(error)) from error


def _write(path: Path, report: dict[str, Any]) -> None:
    if path.suffix == ".json":
        path.write_text(json.dumps(report, indent=2) + "\n")
        return
    # Every row says by itself where it was measured, so that files can be put together.
    common = {k: v for k, v in report.items() if not isinstance(v, dict | list)}
    rows = [{**report["machine"], **common, **row} for row in report.get("results", [{}])]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def tracked(items: Iterable[Item], name: str) -> Iterable[Item]:
    """Return the items; while they are taken, standard error shows a bar if it is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(items, name, console=console, transient=True, disable=not console.is_terminal)


def print_table(table: Any, width: int = 120) -> None:
    """Print a table of rich's, in lines of ``width`` letters where there is no terminal."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else width).print(table)


def require_torch() -> Any:
    """Import PyTorch and give it as many threads as we use, and on a GPU our precision.

    Raises:
        Unfit: PyTorch is not installed, or cannot use the GPU that we use.
    """
    if find_spec("torch") is None:
        raise Unfit("--peer torch needs PyTorch, which is not installed: pip install torch")
    import torch

    torch.set_num_threads(threads())
    if current_backend() == "cuda":
        if not torch.cuda.is_available():
            raise Unfit(f"--peer torch: PyTorch {torch.__version__} finds no usable GPU")
        precision = current_precision()
        torch.backends.cudnn.conv.fp32_precision = "ieee" if precision == "ieee" else "tf32"
        linear = "tf32" if precision in ("tf32", "bf16") else "ieee"
        torch.backends.cuda.matmul.fp32_precision = linear
        torch.backends.cudnn.benchmark = True  # it tries its algorithms, and keeps the best
    return torch


def threads() -> int:
    """Return how many threads each side has: as many as convolt's kernels use on a CPU."""
    from convolt.kernels.cpu.thread_count import get_num_threads  # does not import Numba

    return get_num_threads()


def machine() -> dict[str, Any]:
    """Return where and with what this was measured."""
    facts: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "commit": commit(),
        "cpu": _cpu(),
        "threads": threads(),
        "python": platform.python_version(),
    }
    for package in ("convolt", "numpy", "numba", "torch"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = None
    if current_backend() == "cuda":
        facts["gpu"] = _gpu()
    facts["OPENBLAS_CORETYPE"] = os.environ.get("OPENBLAS_CORETYPE")
    facts["cpus_busy_elsewhere"] = None  # known at the end, see run_command
    return facts


def _cpu_elsewhere_s() -> float | None:
    """Return the CPU time that other programs have used, the host's included; None if unknown."""
    try:
        line = Path("/proc/stat").read_text().splitlines()[0]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, line.split()[1:9])
    total_s = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return total_s - sum(os.times()[:4])


def commit() -> str | None:
    """Return what git calls the state of this repository; None without git."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    here = Path(__file__).parent
    try:
        found = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def _gpu() -> str:
    runtime = import_module("cupy").cuda.runtime
    return runtime.getDeviceProperties(runtime.getDevice())["name"].decode()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def machine_line(facts: dict[str, Any]) -> str:
    """Return the facts of ``machine`` as one line under a table."""
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
