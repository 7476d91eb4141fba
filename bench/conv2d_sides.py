"""The sides that ``bench.conv2d`` times: convolt's kernels, their definition, PyTorch."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from convolt.kernels import conv2d
from convolt.kernels.arrays import Array
from convolt.kernels.backend import array_module, use_backend
from convolt.kernels.conv2d import Conv2dSize

from .measure import normal, require_torch, to_host, to_torch
from .problems import Problem

VERBS = ("fprop", "dgrad", "wgrad")

Call = Callable[[], Any]
Prepare = Callable[[str, Problem, Array, Array], Call]


def operands(verb: str, size: Conv2dSize, dtype: str) -> tuple[Array, Array]:
    """Return the two arrays of a verb, random, where the backend computes.

    They are (x, w), (grad_y, w) or (grad_y, x).
    """
    shapes = {
        "fprop": (size.x_shape, size.w_shape),
        "dgrad": (size.y_shape, size.w_shape),
        "wgrad": (size.y_shape, size.x_shape),
    }
    random = np.random.default_rng(0)
    module = array_module()
    first, second = (module.asarray(normal(random, shape, dtype)) for shape in shapes[verb])
    return first, second


def sum_length(verb: str, size: Conv2dSize) -> int:
    """Return the number of products that one element of the verb's result sums."""
    return {
        "fprop": size.r * size.s * size.c // size.groups,
        "dgrad": size.r * size.s * size.k // size.groups,
        "wgrad": size.n * size.p * size.q,
    }[verb]


# A side prepares a call on the given arrays, which returns an array in our layout.


def prepare_ours(verb: str, problem: Problem, first: Array, second: Array) -> Call:
    """Prepare a call of our kernel on the current backend."""
    return partial(call_of, verb, first, second, problem.size)


def call_of(verb: str, first: Array, second: Array, size: Conv2dSize) -> Array:
    """Call a verb of the current backend on two arrays."""
    if verb == "fprop":
        return conv2d.fprop(first, second, None, size)
    return {"dgrad": conv2d.dgrad, "wgrad": conv2d.wgrad}[verb](first, second, size)


def prepare_definition(verb: str, problem: Problem, first: Array, second: Array) -> Call:
    """Prepare a call of our definition, the numpy backend."""
    kernel = prepare_ours(verb, problem, to_host(first), to_host(second))

    def call() -> np.ndarray:
        with use_backend("numpy"):
            return kernel()

    return call


def prepare_torch(verb: str, problem: Problem, first: Array, second: Array) -> Call:
    """Prepare a call of PyTorch on views of the same memory, which it calls channels_last."""
    torch = require_torch()
    size = problem.size
    a, b = (to_torch(torch, array).permute(0, 3, 1, 2) for array in (first, second))

    def like(shape: tuple[int, ...]) -> Any:  # an operand of which only the shape is read
        n, h, w, c = shape
        like_a = {"dtype": a.dtype, "device": a.device}
        return torch.empty(n, c, h, w, **like_a, memory_format=torch.channels_last)

    window = (problem.stride, problem.padding, problem.dilation)
    if verb == "fprop":
        run = torch.nn.functional.conv2d
        return lambda: run(a, b, None, *window, problem.groups).permute(0, 2, 3, 1)
    dgrad = verb == "dgrad"
    x, w = (like(size.x_shape), b) if dgrad else (b, like(size.w_shape))
    options = (None, *window, False, (0, 0), problem.groups, (dgrad, not dgrad, False))
    run, index = torch.ops.aten.convolution_backward, 0 if dgrad else 1
    return lambda: run(a, x, w, *options)[index].permute(0, 2, 3, 1)


PEERS: dict[str, Prepare] = {"torch": prepare_torch, "numpy": prepare_definition}
