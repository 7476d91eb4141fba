"""Measure the two roofs of a GPU, and how near to the first the memory-bound kernels come.

    python -m bench.roofline --backend cuda

The roofs are the bandwidth of a copy on the device, bytes read and bytes written counted, and the
speed of CuPy's matrix product (cuBLAS, float32 without tf32). A kernel's bytes are those of the
Traffic formulas in its comment, summed over the launches of a call; share is its bandwidth, those
bytes by its time, of the copy's. The arrays are larger than a GPU's L2 cache.

``--backend emulator`` with a small ``--elements`` runs the same; its times say nothing.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from convolt.kernels import (
    activation,
    adam,
    avg_pool2d,
    batch_norm,
    dropout,
    elementwise,
    layout,
    max_pool2d,
    reduction,
    segments,
    sgd,
    softmax_cross_entropy,
)
from convolt.kernels import random as random_kernel
from convolt.kernels.backend import array_module, current_backend
from convolt.kernels.cuda.launch import Kernel
from convolt.kernels.pooling_window import PoolSize

from .measure import (
    Unfit,
    common_arguments,
    interleaved,
    machine,
    machine_line,
    positive,
    print_table,
    run_command,
)

H, W, C = 28, 28, 64  # of an image
CLASSES = 1000

Call = Callable[[], object]


class Operands:
    """Arrays of about ``elements`` elements where the backend computes."""

    def __init__(self, elements: int, dtype: str) -> None:
        self.elements, self.dtype = elements, np.dtype(dtype)
        self.images = (max(1, elements // (H * W * C)), H, W, C)
        self._module = array_module()
        self._random = np.random.default_rng(0)

    def put(self, array: np.ndarray) -> Any:
        """Carry an array to the backend."""
        return self._module.asarray(array)

    def random(self, *shape: int) -> Any:
        """Return normally distributed numbers."""
        return self.put(self._random.standard_normal(shape, dtype=self.dtype.type))

    def classes(self, count: int) -> Any:
        """Return random classes."""
        return self.put(self._random.integers(CLASSES, size=count))

    def copy(self) -> Call:
        """Prepare a copy of one array into another."""
        x = self.random(self.elements)
        y = self._module.empty_like(x)
        return lambda: self._module.copyto(y, x)

    def matrix_product(self, size: int) -> Call:
        """Prepare a product of square matrices by CuPy or NumPy."""
        a, b = self.random(size, size), self.random(size, size)
        return lambda: a @ b


# Each prepares a call of one op.


def _add(on: Operands) -> Call:
    a, b = on.random(on.elements), on.random(on.elements)
    return lambda: elementwise.add(a, b)


def _relu(on: Operands) -> Call:
    x = on.random(on.elements)
    return lambda: activation.relu(x)


def _relu_backward(on: Operands) -> Call:
    grad_y, y = on.random(on.elements), on.random(on.elements)
    return lambda: activation.relu_backward(grad_y, y)


def _sum(on: Operands) -> Call:
    x = on.random(on.elements)
    return lambda: reduction.sum(x)


def _sum_by_channel(on: Operands) -> Call:
    x = layout.channels_first(on.random(*on.images))
    return lambda: reduction.sum(x, (0, 2, 3))


def _channels_last(on: Operands) -> Call:
    n, h, w, c = on.images
    x = on.random(n, c, h, w)
    return lambda: layout.channels_last(x)


def _dropout(on: Operands) -> Call:
    x = on.random(on.elements)
    ticket = random_kernel.ticket(on.put(np.array([1, 0], np.uint64)), on.elements)
    return lambda: dropout.forward(x, 0.5, ticket)


def _pool_size(on: Operands) -> PoolSize:
    return PoolSize.of("pooling", on.images, kernel_size=2, stride=2, padding=0)


def _max_pool2d(on: Operands) -> Call:
    x, size = on.random(*on.images), _pool_size(on)
    return lambda: max_pool2d.forward(x, size)


def _max_pool2d_backward(on: Operands) -> Call:
    size = _pool_size(on)
    _, argmax = max_pool2d.forward(on.random(*on.images), size)
    grad_y = on.random(*size.y_shape)
    return lambda: max_pool2d.backward(grad_y, argmax, size)


def _avg_pool2d(on: Operands) -> Call:
    x, size = on.random(*on.images), _pool_size(on)
    return lambda: avg_pool2d.forward(x, size)


def _batch_norm(on: Operands) -> Call:
    x, weight, bias = on.random(*on.images), on.random(C), on.random(C)
    return lambda: batch_norm.forward(x, weight, bias, None, None, 0.1, 1e-5)


def _batch_norm_backward(on: Operands) -> Call:
    x, grad_y, weight = on.random(*on.images), on.random(*on.images), on.random(C)
    _, mean, inv_std = batch_norm.forward(x, weight, None, None, None, 0.1, 1e-5)
    return lambda: batch_norm.backward(grad_y, x, mean, inv_std, weight)


def _softmax_cross_entropy(on: Operands) -> Call:
    m = max(1, on.elements // CLASSES)
    logits, target = on.random(m, CLASSES), on.classes(m)
    return lambda: softmax_cross_entropy.forward(logits, target, None, -100, 0.0, "mean")


def _softmax_cross_entropy_backward(on: Operands) -> Call:
    m = max(1, on.elements // CLASSES)
    logits, target = on.random(m, CLASSES), on.classes(m)
    loss, saved = softmax_cross_entropy.forward(logits, target, None, -100, 0.0, "mean")
    grad_loss = on.put(np.ones(loss.shape, on.dtype))
    rest = (target, None, saved, -100, 0.0)
    return lambda: softmax_cross_entropy.backward(grad_loss, logits, *rest)


def _tables(on: Operands, *hyper: float) -> tuple[Any, Any]:
    """The tables of one parameter in one group."""
    rows = np.zeros((1, segments.COLUMNS), np.int64)
    rows[0, segments.SIZE], rows[0, segments.ACTIVE] = on.elements, 1
    return on.put(rows), on.put(np.array([hyper], np.float64))


def _sgd(on: Operands) -> Call:
    lr, momentum, dampening, weight_decay, nesterov, maximize = 1e-3, 0.9, 0, 1e-4, 0, 0
    tables = _tables(on, lr, momentum, dampening, weight_decay, nesterov, maximize)
    buffers = [on.random(on.elements) for _ in range(3)]
    return lambda: sgd.step(*buffers, *tables)


def _adam(on: Operands) -> Call:
    lr, beta1, beta2, eps, weight_decay = 1e-3, 0.9, 0.999, 1e-8, 1e-2
    decoupled, amsgrad, maximize = 1, 0, 0
    tables = _tables(on, lr, beta1, beta2, eps, weight_decay, decoupled, amsgrad, maximize)
    buffers = [on.random(on.elements) for _ in range(3)]
    exp_avg_sq = on.put(np.ones(on.elements, on.dtype))
    return lambda: adam.step(*buffers, exp_avg_sq, None, *tables)


OPS: dict[str, Callable[[Operands], Call]] = {
    "elementwise add": _add,
    "relu": _relu,
    "relu backward": _relu_backward,
    "sum": _sum,
    "sum over N, H, W": _sum_by_channel,
    "N C H W to N H W C": _channels_last,
    "dropout": _dropout,
    "max_pool2d 2x2": _max_pool2d,
    "max_pool2d 2x2 backward": _max_pool2d_backward,
    "avg_pool2d 2x2": _avg_pool2d,
    "batch_norm": _batch_norm,
    "batch_norm backward": _batch_norm_backward,
    "softmax_cross_entropy": _softmax_cross_entropy,
    "softmax_cross_entropy backward": _softmax_cross_entropy_backward,
    "sgd step": _sgd,
    "adam step": _adam,
}


@contextmanager
def traffic() -> Iterator[list[float]]:
    """Add up the bytes that the launches of this block move, by their kernels' comments."""
    moved: list[float] = []
    launch = Kernel.launch

    def counting(kernel: Kernel, grid: Any, *arguments: Any, **options: Any) -> None:
        launch(kernel, grid, *arguments, **options)
        constants = {name: value for name, value in options.items() if name != "shared_bytes"}
        moved.extend(kernel.traffic(grid, *arguments, **constants))

    Kernel.launch = counting
    try:
        yield moved
    finally:
        Kernel.launch = launch


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the report."""
    if current_backend() not in ("cuda", "emulator"):
        raise Unfit(f"--backend {current_backend()}: the kernels run on cuda or emulator")
    on_gpu = current_backend() == "cuda"
    on = Operands(arguments.elements, arguments.dtype)

    def time_s(call: Call) -> float:
        return interleaved([call], arguments.repeats, on_gpu=on_gpu)[0]

    copy_bytes_s = 2 * on.elements * on.dtype.itemsize / time_s(on.copy())
    size = arguments.matrix
    try:
        product = 2 * size**3 / time_s(on.matrix_product(size)) / 1e9
    except (ImportError, RuntimeError) as error:  # CuPy without cuBLAS
        product = None
        print(f"no matrix product: {error}", file=sys.stderr)
    rows = []
    for name, prepare in OPS.items():
        call = prepare(on)
        with traffic() as moved:
            call()
        taken_s = time_s(call)
        rate = sum(moved) / taken_s
        row = {"op": name, "ours_s": taken_s, "bytes": int(sum(moved))}
        rows.append({**row, "gigabytes_per_s": rate / 1e9, "share": rate / copy_bytes_s})
    return {
        "benchmark": "roofline",
        "backend": current_backend(),
        "dtype": arguments.dtype,
        "elements": on.elements,
        "copy_gigabytes_per_s": copy_bytes_s / 1e9,
        "matrix": size,
        "matrix_product_gflops": product,
        "machine": machine(),
        "results": rows,
    }


def show(report: dict[str, Any]) -> None:
    """Print the report as a table."""
    from rich.table import Table

    table = Table("op", title=f"{report['backend']}, {report['elements']} x {report['dtype']}")
    for heading in ("ms", "MB", "GB/s", "of a copy's"):
        table.add_column(heading, justify="right")
    for row in report["results"]:
        numbers = (f"{row['ours_s'] * 1e3:.3f}", f"{row['bytes'] / 1e6:.1f}")
        rates = (f"{row['gigabytes_per_s']:.1f}", f"{row['share']:.0%}")
        table.add_row(row["op"], *numbers, *rates)
    print_table(table)
    print(f"copy: {report['copy_gigabytes_per_s']:.1f} GB/s")
    if report["matrix_product_gflops"]:
        speed = f"{report['matrix_product_gflops']:.0f} GFLOP/s"
        print(f"product of {report['matrix']} x {report['matrix']} matrices: {speed}")
    print(machine_line(report["machine"]))


def main() -> int:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.roofline",
        description="Time the kernels that memory bounds beside a copy.",
    )
    parser.add_argument("--elements", type=positive, default=1 << 26, help="of each array, about")
    parser.add_argument("--matrix", type=positive, default=4096, help="rows of a square matrix")
    parser.add_argument("--repeats", type=positive, default=5, help="turns of each")
    common_arguments(parser)
    return run_command(parser.parse_args(), benchmark, show)


if __name__ == "__main__":
    sys.exit(main())
