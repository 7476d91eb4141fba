"""Time a training step beside PyTorch: ``python -m bench.training_step --help``.

A step is forward, cross entropy, backward and SGD with momentum, on a batch of random images.
The networks are those of ``bench/models.py``; ``--model all`` takes the small ones, one after the
other. Both sides start from the same weights and take turns with the same number of threads. The
losses of the first steps are compared before anything is timed.

    python -m bench.training_step --backend cuda --model resnet50 --dtype bfloat16 --peer torch

On a GPU steps follow each other without waiting for the loss, between CUDA events; inputs stay
there, images are channels last on both sides. ``--dtype bfloat16`` is our precision bf16 and
PyTorch's autocast: parameters are float32. ``--compile`` also times ``torch.compile`` of the peer.

ratio = peer_s / ours_s: above 1 we are faster. peak_memory_bytes is the peak resident memory of
a process of its own that does nothing but these steps; base_memory_bytes is what it had reached
after one step with a single image, that is with libraries, compiled code, weights and optimizer
in memory, so that the difference is what the batch costs. Each side is measured so. On a GPU they
are the bytes that the side's memory pool has taken.
"""

import argparse
import re
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import convolt
from convolt import functional, layers, optim
from convolt.kernels.backend import array_module, current_backend, use_backend
from convolt.kernels.layout import channels_first
from convolt.kernels.precision import current_precision, use_precision

from . import gpu
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
from .models import CLASSES, INPUT_SHAPE, MODELS, SMALL, build

LR, MOMENTUM = 0.001, 0.9
COMPARED_STEPS = 3

TOLERANCE = {"lenet5": 64, "resnet20": 256, "vgg11_cifar": 1024, "resnet50": 2**20}
"""Unit roundoffs by which losses may differ, relative to them: 6e-5 in float32 for 1024.

The first loss, to which no gradient has contributed, may differ by FIRST_TOLERANCE only. After
it, rounding does more than its size where it turns the sign of a ReLU's input: a whole gradient
passes or stops, and the more units lie near zero, the more do so. Beside a float64 run (batch 2 to
128), the losses of steps 2 and 3 were off by up to 4, 6 and 160 units on either side; a gradient
that is wrong by 1 % throughout moves them by 1,000, 250 and 20,000. ResNet-50 with few images is
chaotic: in float64 (batch 4, 64x64) both sides' losses were 85,000 units apart at step 3, in
float32 1 to 3 % (batch 8 and 16), so that ``--dtype float64`` is what compares its gradients.
"""
FIRST_TOLERANCE = {"lenet5": 64, "resnet20": 64, "vgg11_cifar": 64, "resnet50": 256}

LOOSE = {"tf32": 0.02, "bf16": 0.1}
"""By which losses may differ where operands are rounded, relative to them: gross faults only."""

Step = Callable[[], Any]  # returns the loss, which ``.item()`` waits for
Weights = dict[str, np.ndarray]


def batch(
    model: str, images: int, dtype: str, pixels: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return random images (N, H, W, C), of ``pixels`` squared if given, and random classes."""
    random = np.random.default_rng(0)
    h, w, c = INPUT_SHAPE[model]
    shape = (images, pixels or h, pixels or w, c)
    x = random.standard_normal(shape, dtype=np.dtype(dtype).type)
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

    def step() -> convolt.Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(net(x), target)
        loss.backward()
        optimizer.step()
        return loss

    return step


def step_of_torch(
    model: str,
    weights: Weights,
    images: np.ndarray,
    labels: np.ndarray,
    compiled: bool = False,
) -> Step:
    """Return the same step of PyTorch, in its channels_last layout."""
    torch = require_torch()
    device = "cuda" if current_backend() == "cuda" else "cpu"
    x, target = (torch.from_numpy(a).to(device) for a in (channels_first(images), labels))
    net = build(model, torch.nn)
    net.to(device=device, dtype=x.dtype, memory_format=torch.channels_last)
    net.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    fused = {"fused": True} if device == "cuda" else {}
    optimizer = torch.optim.SGD(net.parameters(), lr=LR, momentum=MOMENTUM, **fused)
    forward = torch.compile(net) if compiled else net
    reduced = current_precision() == "bf16"

    def step() -> Any:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16) if reduced else nullcontext():
            loss = torch.nn.functional.cross_entropy(forward(x), target)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


SIDES: dict[str, Callable[..., Step]] = {
    "convolt": step_of_convolt,
    "torch": step_of_torch,
    "torch.compile": partial(step_of_torch, compiled=True),
}


def compare(model: str, steps: list[Step], dtype: str) -> float:
    """Take the first steps of all sides and return the largest difference of our losses to theirs.

    Raises:
        Unfit: They differ by more than rounding.
    """
    ours, *peers = (np.array([step().item() for _ in range(COMPARED_STEPS)]) for step in steps)
    allowed = np.array([FIRST_TOLERANCE[model]] + [TOLERANCE[model]] * (COMPARED_STEPS - 1))
    allowed = allowed * UNIT[dtype]
    if precision := _rounded_to():
        allowed = np.maximum(allowed, LOOSE[precision])
    difference = np.abs(ours - peers)
    if not (difference <= allowed * np.abs(peers)).all():
        raise Unfit(f"{model}: the losses of the first steps differ: {ours} and {peers}")
    return float(difference.max())


def _rounded_to() -> str | None:
    """To what the operands of convolutions are rounded: a key of LOOSE, or None."""
    default = "tf32" if current_backend() == "cuda" else "ieee"
    precision = current_precision() or default
    return precision if precision in LOOSE else None


def memory(
    side: str,
    backend: str,
    precision: str | None,
    model: str,
    weights: Weights,
    images: int,
    pixels: int | None,
) -> dict[str, int]:
    """Return base and peak memory of this process after steps of one side."""
    use_backend(backend)
    if precision:
        use_precision(precision)
    dtype = next(iter(weights.values())).dtype.name
    SIDES[side](model, weights, *batch(model, 1, dtype, pixels))().item()
    base = memory_bytes(side)
    step = SIDES[side](model, weights, *batch(model, images, dtype, pixels))
    for _ in range(COMPARED_STEPS):
        step().item()
    return {"base_memory_bytes": base, "peak_memory_bytes": memory_bytes(side)}


def memory_bytes(side: str) -> int:
    """Return the most memory that a side has had: of the GPU where it computes there."""
    if current_backend() != "cuda":
        return peak_memory_bytes()
    if side == "convolt":
        return import_module("cupy").get_default_memory_pool().total_bytes()
    return import_module("torch").cuda.max_memory_reserved()


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


def memory_in_own_process(
    side: str, model: str, weights: Weights, images: int, pixels: int | None
) -> dict[str, int]:
    """Return what ``memory`` finds in a new process."""
    where = (side, current_backend(), current_precision())
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(memory, *where, model, weights, images, pixels).result()


def measure(model: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare, then time one network, and return its part of the report.

    Raises:
        Unfit: The losses differ by more than rounding.
    """
    images, pixels, peer = arguments.batch, arguments.image, arguments.peer
    dtype = "float32" if arguments.dtype == "bfloat16" else arguments.dtype
    weights, data = initial_weights(model, dtype), batch(model, images, dtype, pixels)
    sides = {"": "convolt"} | ({"peer_": peer} if peer else {})
    if arguments.compile:
        sides["compiled_"] = "torch.compile"
    steps = [SIDES[side](model, weights, *data) for side in sides.values()]
    difference = compare(model, steps, dtype) if peer else None
    on_gpu = current_backend() == "cuda"
    times_s = dict(zip(sides, interleaved(steps, arguments.steps, on_gpu=on_gpu), strict=True))
    row: dict[str, Any] = {
        "model": model,
        "batch": images,
        "image": data[0].shape[1],
        "largest_loss_difference": difference,
        "ratio": ratio(times_s[""], times_s.get("peer_")),
        "compiled_ratio": ratio(times_s[""], times_s.get("compiled_")),
    }
    for prefix, side in sides.items():
        row[f"{prefix or 'ours_'}s"] = times_s[prefix]
        row[f"{prefix}images_per_s"] = images / times_s[prefix]
        found = memory_in_own_process(side, model, weights, images, pixels)
        row |= {f"{prefix}{name}": value for name, value in found.items()}
    return row


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the report, of which one network is a part, and several are rows.

    Raises:
        Unfit: The options do not go together.
    """
    on_gpu = current_backend() in gpu.BACKENDS
    if not on_gpu and (arguments.dtype == "bfloat16" or arguments.precision):
        raise Unfit(f"--backend {current_backend()}: bfloat16 and --precision are a GPU's")
    if arguments.compile and not arguments.peer:
        raise Unfit("--compile is the peer's: --peer torch")
    precision = "bf16" if arguments.dtype == "bfloat16" else arguments.precision
    if precision:
        use_precision(precision)
    several = arguments.model == "all"
    rows = [measure(model, arguments) for model in (SMALL if several else [arguments.model])]
    return {
        "benchmark": "training_step",
        "backend": current_backend(),
        "peer": arguments.peer,
        "dtype": arguments.dtype,
        "precision": precision,
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
        names = {"": f"convolt, {report['backend']}", "peer_": peer, "compiled_": "torch.compile"}
        for prefix, side in names.items():
            if f"{prefix}images_per_s" in row:
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
        if row["compiled_ratio"]:
            print(f"{row['model']}: ratio {row['compiled_ratio']:.3f} (torch.compile / ours)")
    print(machine_line(report["machine"]))


def main() -> int:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.training_step", description="Time a training step."
    )
    parser.add_argument("--model", choices=[*MODELS, "all"], default="lenet5")
    parser.add_argument("--batch", type=positive, default=128, help="images a step")
    parser.add_argument("--image", type=positive, help="height and width; the model's if left out")
    parser.add_argument("--peer", choices=["torch"], help="also time this: ratio = peer / ours")
    parser.add_argument("--steps", type=positive, default=20, help="turns of each side")
    parser.add_argument("--compile", action="store_true", help="also time torch.compile")
    parser.add_argument("--precision", choices=gpu.PRECISIONS, help="of float32 on a GPU; its own")
    common_arguments(parser, dtypes=gpu.DTYPES)
    return run_command(parser.parse_args(), benchmark, show)


if __name__ == "__main__":
    sys.exit(main())
