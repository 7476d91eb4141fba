"""Time a training step beside PyTorch: ``python -m bench.training_step --help``.

A step is forward, cross entropy, backward and SGD with momentum, on a batch of random images.
The networks are those of ``bench/models.py``; ``--model all`` takes one after the other. Both sides
start from the same weights and take turns with the same number of threads. The losses of the first
steps are compared before anything is timed.

ratio = peer_s / ours_s: above 1 we are faster. peak_memory_bytes is the peak resident memory of
a process of its own that does nothing but these steps; base_memory_bytes is what it had reached
after one step with a single image, that is with libraries, compiled code, weights and optimizer
in memory, so that the difference is what the batch costs. Each side is measured so. On a GPU both
are the memory of the host all the same.
"""

import argparse
import re
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import convolt
from convolt import functional, layers, optim
from convolt.kernels.backend import array_module, current_backend, use_backend
from convolt.kernels.layout import channels_first

from .measure import (
    UNIT,
    Unfit,
    common_arguments,
    interleaved,
    machine,
    machine_line,
    positive,
    print_table,
    ratio,
    require_torch,
    run_command,
)
from .models import CLASSES, INPUT_SHAPE, MODELS, build

LR, MOMENTUM = 0.001, 0.9
COMPARED_STEPS = 3

TOLERANCE = {"lenet5": 64, "resnet20": 256, "vgg11_cifar": 1024}
"""Unit roundoffs by which losses may differ, relative to them: 6e-5 in float32 for 1024.

The first loss, to which no gradient has contributed, may differ by FIRST_TOLERANCE only. After
it, rounding does more than its size where it turns the sign of a ReLU's input: a whole gradient
passes or stops, and the more units lie near zero, the more do so. Beside a float64 run (batch 2 to
128), the losses of steps 2 and 3 were off by up to 4, 6 and 160 units on either side; a gradient
that is wrong by 1 % throughout moves them by 1,000, 250 and 20,000.
"""
FIRST_TOLERANCE = 64

Step = Callable[[], float]
Weights = dict[str, np.ndarray]


def batch(model: str, images: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return random images (N, H, W, C) and their random classes."""
    random = np.random.default_rng(0)
    x = random.standard_normal((images, *INPUT_SHAPE[model]), dtype=np.dtype(dtype).type)
    return x, random.integers(CLASSES, size=images)


def initial_weights(model: str, dtype: str) -> Weights:
    """Return the state that both sides start from; the nets learn from their first step.

    With the layers' own weights, a deep net without batch-norm does not: its losses would agree
    whatever the gradients are.
    """
    convolt.manual_seed(0)
    net = build(model, layers).to(dtype)
    for parameter in net.parameters():
        if parameter.ndim == 4:
            layers.init.kaiming_normal_(parameter, nonlinearity="relu")
    return {key: tensor.numpy().copy() for key, tensor in net.state_dict().items()}


def step_of_convolt(model: str, weights: Weights, images: np.ndarray, labels: np.ndarray) -> Step:
    """Return a function that makes one training step of ours and returns the loss."""
    net = build(model, layers).to(images.dtype)
    net.load_state_dict(weights)
    return step_of(net, images, labels)


def step_of(net: layers.Module, images: np.ndarray, labels: np.ndarray) -> Step:
    """Return a function that makes one training step of a network of ours, from where it is."""
    optimizer = optim.SGD(net.parameters(), lr=LR, momentum=MOMENTUM)
    module = array_module()
    x = convolt.Tensor(channels_first(module.asarray(images)))
    target = convolt.Tensor(module.asarray(labels))

    def step() -> float:
        optimizer.zero_grad()
        loss = functional.cross_entropy(net(x), target)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def step_of_torch(model: str, weights: Weights, images: np.ndarray, labels: np.ndarray) -> Step:
    """Return the same step of PyTorch, in its channels_last layout."""
    torch = require_torch()
    device = "cuda" if current_backend() == "cuda" else "cpu"
    x, target = (torch.from_numpy(a).to(device) for a in (channels_first(images), labels))
    net = build(model, torch.nn)
    net.to(device=device, dtype=x.dtype, memory_format=torch.channels_last)
    net.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    optimizer = torch.optim.SGD(net.parameters(), lr=LR, momentum=MOMENTUM)

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x), target)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


SIDES = {"convolt": step_of_convolt, "torch": step_of_torch}


def compare(model: str, steps: list[Step], dtype: str) -> float:
    """Take the first steps of two sides and return the largest difference of their losses.

    Raises:
        Unfit: They differ by more than rounding.
    """
    ours, peer = (np.array([step() for _ in range(COMPARED_STEPS)]) for step in steps)
    allowed = np.array([FIRST_TOLERANCE] + [TOLERANCE[model]] * (COMPARED_STEPS - 1))
    difference = np.abs(ours - peer)
    if not (difference <= allowed * UNIT[dtype] * peer).all():
        raise Unfit(f"{model}: the losses of the first steps differ: {ours} and {peer}")
    return float(difference.max())


def memory(side: str, backend: str, model: str, weights: Weights, images: int) -> dict[str, int]:
    """Return base and peak memory of this process after steps of one side."""
    use_backend(backend)
    dtype = next(iter(weights.values())).dtype.name
    SIDES[side](model, weights, *batch(model, 1, dtype))()
    base = peak_memory_bytes()
    step = SIDES[side](model, weights, *batch(model, images, dtype))
    for _ in range(COMPARED_STEPS):
        step()
    return {"base_memory_bytes": base, "peak_memory_bytes": peak_memory_bytes()}


def peak_memory_bytes() -> int:
    """Return the largest resident memory that this process has had."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux, whose ru_maxrss begins with the memory of the parent process
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory_in_own_process(side: str, model: str, weights: Weights, images: int) -> dict[str, int]:
    """Return what ``memory`` finds in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(memory, side, current_backend(), model, weights, images).result()


def measure(model: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare, then time one network, and return its part of the report.

    Raises:
        Unfit: The losses differ by more than rounding.
    """
    images, dtype, peer = arguments.batch, arguments.dtype, arguments.peer
    weights, data = initial_weights(model, dtype), batch(model, images, dtype)
    sides = ["convolt", peer] if peer else ["convolt"]
    steps = [SIDES[side](model, weights, *data) for side in sides]
    difference = compare(model, steps, dtype) if peer else None
    times_s = interleaved(steps, arguments.steps)
    row: dict[str, Any] = {
        "model": model,
        "batch": images,
        "largest_loss_difference": difference,
        "ratio": ratio(times_s[0], times_s[1]) if peer else None,
    }
    for prefix, side, time_s in zip(("", "peer_"), sides, times_s, strict=False):
        row[f"{prefix or 'ours_'}s"] = time_s
        row[f"{prefix}images_per_s"] = images / time_s
        for name, value in memory_in_own_process(side, model, weights, images).items():
            row[f"{prefix}{name}"] = value
    return row


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the report, of which one network is a part, and several are rows."""
    several = arguments.model == "all"
    rows = [measure(model, arguments) for model in (MODELS if several else [arguments.model])]
    return {
        "benchmark": "training_step",
        "backend": current_backend(),
        "peer": arguments.peer,
        "dtype": arguments.dtype,
        "steps": arguments.steps,
        **({"results": rows} if several else rows[0]),
        "machine": machine(),
    }


def show(report: dict[str, Any]) -> None:
    """Print the report as a table."""
    from rich.table import Table

    rows, peer = report.get("results", [report]), report["peer"]
    table = Table(
        "model", "side", title=f"training step, batch {rows[0]['batch']}, {report['dtype']}"
    )
    for heading in ("ms", "images/s", "peak memory MB", "of it for the batch MB"):
        table.add_column(heading, justify="right")
    for row in rows:
        for prefix, side in (("", f"convolt, {report['backend']}"), ("peer_", peer)):
            if side:
                speed, base, peak = (
                    row[f"{prefix}{key}"]
                    for key in ("images_per_s", "base_memory_bytes", "peak_memory_bytes")
                )
                time_s = row[f"{prefix or 'ours_'}s"]
                cells = [f"{time_s * 1e3:.2f}", f"{speed:.0f}"]
                sizes = (f"{size / 1e6:.0f}" for size in (peak, peak - base))
                table.add_row(row["model"] if not prefix else "", side, *cells, *sizes)
    print_table(table)
    for row in rows if peer else ():
        memory_ratio = row["peer_peak_memory_bytes"] / row["peak_memory_bytes"]
        print(
            f"{row['model']}: ratio {row['ratio']:.3f} ({peer} / ours), "
            f"of peak memory {memory_ratio:.2f}"
        )
    print(machine_line(report["machine"]))


def main() -> int:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.training_step", description="Time a training step."
    )
    parser.add_argument("--model", choices=[*MODELS, "all"], default="lenet5")
    parser.add_argument("--batch", type=positive, default=128, help="images a step")
    parser.add_argument("--peer", choices=["torch"], help="also time this: ratio = peer / ours")
    parser.add_argument("--steps", type=positive, default=20, help="turns of each side")
    common_arguments(parser)
    return run_command(parser.parse_args(), benchmark, show)


if __name__ == "__main__":
    sys.exit(main())
