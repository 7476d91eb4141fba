"""``convolt roofline``: what convolutions should take on a GPU, by a model of cost."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from typer import Option

DTYPES = {  # of arrays, and how float32 is multiplied
    "bf16": ("bfloat16", "ieee"),
    "tf32": ("float32", "tf32"),
    "float32": ("float32", "ieee"),
    "float64": ("float64", "ieee"),
}
LETTERS = ("N", "C", "H", "W", "K", "R", "S")
WORST = 5


def roofline(
    op: Annotated[str | None, typer.Argument(metavar="conv2d", help="The op.")] = None,
    sizes: Annotated[
        list[int] | None,
        typer.Argument(metavar="N C H W K R S", help="Images, their shape, filters, theirs."),
    ] = None,
    network: Annotated[
        str | None, Option(help="All convolutions of it: resnet50, vgg16, cifar, deepbench, ...")
    ] = None,
    batch: Annotated[
        int | None, Option(help="Images. [default: 1; deepbench: what it says]")
    ] = None,
    dtype: Annotated[str, Option(help="bf16, tf32, float32 or float64.")] = "bf16",
    gpu: Annotated[str, Option(help="h100, h200, a100, l4, rtx-4090 or t4.")] = "h100",
    stride: Annotated[str, Option(help="Of one convolution: 2, or vertical,horizontal.")] = "1",
    padding: Annotated[str, Option(help="The same.")] = "0",
    dilation: Annotated[str, Option(help="The same.")] = "1",
    groups: Annotated[int, Option(help="Of one convolution.")] = 1,
    explain: Annotated[
        bool, Option("--explain", help="Show all candidates, and why one is chosen.")
    ] = False,
    as_json: Annotated[bool, Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict the time of one convolution, or of all of a network, on a GPU that need not be here.

    The bound of a time is the larger of two floors: the operations at the speed of a library's
    matrix product, and each array moved once at the bandwidth of a copy. share is the bound by the
    time, geomean_of_bound the geometric mean of the shares over the shapes and verbs of a training
    step, each once (a network's first layer has no dgrad). Parts are what each part of the work
    would take alone; bound_by names the largest.
    """
    if dtype not in DTYPES:
        raise ValueError(f"--dtype {dtype}: choose among {', '.join(DTYPES)}")
    if (network is None) == (op is None):
        raise ValueError("name one convolution, conv2d N C H W K R S, or a --network")
    if network is not None and (stride, padding, dilation, groups) != ("1", "0", "1", 1):
        raise ValueError("--stride, --padding, --dilation and --groups are of one convolution")
    if network is not None:
        report = of_network(network, batch, dtype, gpu, explain)
    elif op != "conv2d" or len(sizes or ()) != len(LETTERS) or batch is not None:
        raise ValueError("one convolution is conv2d N C H W K R S, seven numbers, without --batch")
    else:
        window = (_pair("stride", stride), _pair("padding", padding), _pair("dilation", dilation))
        report = of_convolution(sizes or [], *window, groups, dtype, gpu)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)


def of_network(
    network: str, batch: int | None, dtype: str, gpu_name: str, explain: bool
) -> dict[str, Any]:
    """The report of all convolutions of a network."""
    from ..models.convolutions import convolutions

    rows = []
    for layer in convolutions(network, batch):
        for verb in layer.verbs:
            row = _row(verb, layer.size, dtype, gpu_name)
            rows.append({"name": layer.name, "count": layer.count, **row})
    worst = sorted(rows, key=lambda row: row["share"])[:WORST]
    if not explain:
        for row in rows:
            del row["candidates"], row["why"]
    return {
        "gpu": gpu_name,
        "network": network,
        "batch": batch,
        "dtype": dtype,
        "rows": rows,
        "worst": [
            {key: row[key] for key in ("name", "verb", "algorithm", "share", "bound_by")}
            for row in worst
        ],
        "time_s": sum(row["count"] * row["time_s"] for row in rows),
        "bound_s": sum(row["count"] * row["bound_s"] for row in rows),
        "geomean_of_bound": _geomean(row["share"] for row in rows),
    }


def of_convolution(
    sizes: list[int],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    dtype: str,
    gpu_name: str,
) -> dict[str, Any]:
    """The report of one convolution."""
    from ..kernels.conv2d import Conv2dSize
    from ..kernels.conv2d.algorithm import VERBS

    n, c, h, w, k, r, s = sizes
    if groups < 1 or c % groups:
        raise ValueError(f"--groups {groups}: {c} channels are not divisible by it")
    window = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    size = Conv2dSize.of((n, h, w, c), (k, r, s, c // groups), **window)
    rows = [_row(verb, size, dtype, gpu_name) for verb in VERBS]
    return {
        "gpu": gpu_name,
        "conv2d": dict(zip(LETTERS, sizes, strict=True)) | window,
        "dtype": dtype,
        "rows": rows,
        "geomean_of_bound": _geomean(row["share"] for row in rows),
    }


def _row(verb: str, size: Any, dtype: str, gpu_name: str) -> dict[str, Any]:
    """One verb of one convolution: the chosen algorithm, then all candidates."""
    from ..kernels.conv2d.algorithm import Problem
    from ..kernels.conv2d.choice import candidates, choice
    from ..kernels.conv2d.cost import floors_s, predict
    from ..kernels.cuda.gpu import named

    gpu = named(gpu_name, f"--gpu {gpu_name}")
    problem = Problem(verb, size, *DTYPES[dtype])
    compute_s, memory_s = floors_s(problem, gpu)
    bound_s = max(compute_s, memory_s)

    def described(algorithm: Any) -> dict[str, Any]:
        predicted = predict(problem, algorithm, gpu)
        return {
            "algorithm": algorithm.name,
            "splits": algorithm.splits,
            "time_s": predicted.time_s,
            "share": bound_s / predicted.time_s,
            "bound_by": predicted.bound,
            "parts_s": predicted.parts,
        }

    chosen = choice(problem, gpu)
    return {
        "verb": verb,
        "compute_floor_s": compute_s,
        "memory_floor_s": memory_s,
        "bound_s": bound_s,
        **described(chosen.algorithm),
        "why": chosen.why,
        "candidates": [described(algorithm) for algorithm in candidates(problem, gpu)],
    }


def _pair(name: str, text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(number) for number in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 2):
        raise ValueError(f"--{name} must be a number or vertical,horizontal; it is {text!r}")
    return numbers * (3 - len(numbers))


def _geomean(shares: Iterable[float]) -> float:
    """The geometric mean; 0 where nothing is to be done."""
    logs = [math.log(share) if share else -math.inf for share in shares]
    return math.exp(sum(logs) / len(logs))


# ---- As text -------------------------------------------------------------------------------------


def _print(report: dict[str, Any]) -> None:
    if "network" in report:
        _print_network(report)
    else:
        for row in report["rows"]:
            _print_candidates(row)
    print(f"geomean_of_bound {report['geomean_of_bound']:.3f} ({report['dtype']}, {report['gpu']})")


def _print_network(report: dict[str, Any]) -> None:
    lines = [("layer", "x", "verb", "algorithm", "us", "bound us", "share", "bound by")]
    for row in report["rows"]:
        if "candidates" in row:
            print(f"{row['name']} ", end="")
            _print_candidates(row)
        times = (_us(row["time_s"]), _us(row["bound_s"]), f"{row['share']:.0%}", row["bound_by"])
        lines.append((row["name"], str(row["count"]), row["verb"], _algorithm(row), *times))
    _print_columns(lines)
    print(f"all of them: {report['time_s'] * 1e3:.2f} ms, bound {report['bound_s'] * 1e3:.2f} ms")
    for row in report["worst"]:
        named = f"{row['name']} {row['verb']} ({row['algorithm']})"
        print(f"worst: {named}: {row['share']:.0%} of its bound, limited by {row['bound_by']}")


def _print_candidates(row: dict[str, Any]) -> None:
    floors = f"compute {_us(row['compute_floor_s'])} us, memory {_us(row['memory_floor_s'])} us"
    print(f"{row['verb']}: at least {floors}; {_algorithm(row)}: {row['why']}")
    lines = [("algorithm", "us", "share", "bound by", *(f"{part} us" for part in row["parts_s"]))]
    for candidate in row["candidates"]:
        times = (_us(candidate["time_s"]), f"{candidate['share']:.0%}", candidate["bound_by"])
        lines.append((_algorithm(candidate), *times, *map(_us, candidate["parts_s"].values())))
    _print_columns(lines)
    print()


def _algorithm(row: dict[str, Any]) -> str:
    return row["algorithm"] + (f" /{row['splits']}" if row["splits"] > 1 else "")


def _us(time_s: float) -> str:
    return f"{time_s * 1e6:.1f}"


def _print_columns(lines: list[tuple[str, ...]]) -> None:
    """Print a table: numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = zip(line, lines[-1], widths, strict=True)
        print("  ".join(c.rjust(w) if last[0].isdigit() else c.ljust(w) for c, last, w in cells))
