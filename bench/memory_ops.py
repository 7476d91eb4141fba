"""The ops that memory bounds, each with the same call in PyTorch: what ``memory_bound`` times.

Least bytes are those that must move when no array stays in a cache from one pass over it to the
next: each operand once, each result once. Batch-norm in training reads x twice, once for the
statistics; its gradient reads grad_y and x twice, once for the two sums.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from convolt.kernels import (
    activation,
    adam,
    dropout,
    elementwise,
    layout,
    reduction,
    segments,
    sgd,
    softmax_cross_entropy,
)
from convolt.kernels import random as random_kernel
from convolt.kernels.arrays import Array

from . import memory_images as images
from .measure import to_host, to_torch
from .memory_case import Call, Case, Operands, on_shared, shared

CLASSES = 1000  # of wide logits
SLOPE = 0.01
P = 0.5  # of dropout
LR, SGD_MOMENTUM, WEIGHT_DECAY = 1e-3, 0.9, 1e-4


# One pass over operands of one shape


def unary(
    function: Callable[..., Any], theirs: str, options: tuple[Any, ...], on: Operands
) -> Case:
    """Prepare an activation."""
    x = on.images()
    return Case(on.moved(*[on.nhwc] * 2), partial(function, x), on_shared(theirs, x, *options))


def binary(
    function: Callable[..., Any], theirs: str, options: tuple[Any, ...], on: Operands
) -> Case:
    """Prepare the gradient of an activation, or arithmetic."""
    a, b = on.images(), on.images()
    call = on_shared(theirs, a, b, *options)
    return Case(on.moved(*[on.nhwc] * 3), partial(function, a, b), call)


def accumulate(on: Operands) -> Case:
    """Add a gradient to another, in place on both sides."""
    y, x = on.images(), on.images()
    copy = y.copy()

    def ours() -> Array:
        elementwise.accumulate(y, x)
        return y

    def theirs(torch: Any) -> Call:
        return partial(shared(torch, copy).add_, shared(torch, x))

    return Case(on.moved(*[on.nhwc] * 3), ours, theirs)


def drop(backward: bool, on: Operands) -> Case:
    """Prepare dropout or its gradient; our mask is computed again, not read."""
    x = on.images()
    ticket = random_kernel.ticket(on.put(np.array([1, 0], np.uint64)), on.elements)

    def theirs(torch: Any) -> Call:
        tensor = shared(torch, x)
        if not backward:
            return partial(torch.nn.functional.dropout, tensor, P)
        mask = torch.empty_like(tensor, dtype=torch.bool).bernoulli_(1 - P)
        return partial(torch.ops.aten.native_dropout_backward, tensor, mask, 1 / (1 - P))

    def comparable(got: Any, ref: Any) -> tuple[Any, Any]:
        """Masks differ: compare what both kept, and how much each did, within 6 deviations."""
        got, ref = to_host(got), to_host(ref.permute(0, 2, 3, 1))
        both = (got != 0) & (ref != 0)
        allowed = 6 * (P * (1 - P) / got.size) ** 0.5
        fair = [np.array(abs((y != 0).mean() - (1 - P)) <= allowed) for y in (got, ref)]
        return (got * both, *fair), (ref * both, np.array(True), np.array(True))

    ours = partial(dropout.backward if backward else dropout.forward, x, P, ticket)
    return Case(on.moved(*[on.nhwc] * 2), ours, theirs, comparable)


# Loss, optimizers


def _logits(on: Operands) -> tuple[Array, Array]:
    rows = max(1, on.elements // CLASSES)
    target = np.random.default_rng(1).integers(CLASSES, size=rows)
    return on.random(rows, CLASSES), on.put(target)


def cross_entropy(on: Operands) -> Case:
    """Prepare the loss of wide logits."""
    logits, target = _logits(on)
    return Case(
        logits.nbytes,
        partial(softmax_cross_entropy.forward, logits, target, None, -100, 0.0, "mean"),
        on_shared("nn.functional.cross_entropy", logits, target),
        lambda got, ref: (got[0], ref),
        sums=logits.size,
    )


def cross_entropy_backward(on: Operands) -> Case:
    """Prepare its gradient, from what the forward call saves."""
    logits, target = _logits(on)
    loss, saved = softmax_cross_entropy.forward(logits, target, None, -100, 0.0, "mean")
    grad = on.put(np.ones(loss.shape, on.dtype))

    def theirs(torch: Any) -> Call:
        tensor = shared(torch, logits).requires_grad_()
        lost = torch.nn.functional.cross_entropy(tensor, shared(torch, target))
        return lambda: torch.autograd.grad(lost, tensor, retain_graph=True)[0]

    ours = partial(softmax_cross_entropy.backward, grad, logits, target, None, saved, -100, 0.0)
    return Case(2 * logits.nbytes, ours, theirs, sums=CLASSES)


def _stepper(
    step: Callable[..., None],
    states: int,
    hyper: tuple[float, ...],
    theirs: str,
    options: Any,
    on: Operands,
) -> Case:
    """Prepare a step over one flat parameter; PyTorch's is the fused one, its quickest."""
    param, grad = on.random(on.elements), on.random(on.elements)
    copy = param.copy()
    state = [np.zeros_like(param) for _ in range(states)]
    rows = np.zeros((1, segments.COLUMNS), np.int64)
    rows[0, segments.SIZE], rows[0, segments.ACTIVE] = on.elements, 1
    tables = on.put(rows), on.put(np.array([hyper], np.float64))

    def ours() -> Array:
        step(param, grad, *state, *tables)
        return param

    def prepare(torch: Any) -> Call:
        parameter = torch.nn.Parameter(shared(torch, copy))
        parameter.grad = shared(torch, grad)
        optimizer = getattr(torch.optim, theirs)([parameter], fused=True, **options)

        def call() -> Any:
            optimizer.step()
            return parameter.detach()

        return call

    # param and each state are read and written, grad is read
    return Case((3 + 2 * states) * param.nbytes, ours, prepare, sums=16)


def sgd_step(on: Operands) -> Case:
    """Prepare SGD with momentum and weight decay."""
    options = {"lr": LR, "momentum": SGD_MOMENTUM, "weight_decay": WEIGHT_DECAY}
    return _stepper(sgd.step, 1, (LR, SGD_MOMENTUM, 0, WEIGHT_DECAY, 0, 0), "SGD", options, on)


def adam_step(on: Operands) -> Case:
    """Prepare AdamW."""

    def step(param: Any, grad: Any, m: Any, v: Any, *tables: Any) -> None:
        adam.step(param, grad, m, v, None, *tables)

    hyper = (LR, 0.9, 0.999, 1e-8, WEIGHT_DECAY, 1, 0, 0)
    options = {"lr": LR, "weight_decay": WEIGHT_DECAY}
    return _stepper(step, 2, hyper, "AdamW", options, on)


# Layout and sums


def to_channels_last(on: Operands) -> Case:
    """Prepare the copy of a user's N C H W array."""
    x = on.random(on.n, on.c, on.h, on.w)

    def theirs(torch: Any) -> Call:
        tensor = to_torch(torch, x)
        return lambda: tensor.contiguous(memory_format=torch.channels_last)

    return Case(on.moved(*[on.nhwc] * 2), partial(layout.channels_last, x), theirs)


def to_channels_first(on: Operands) -> Case:
    """Prepare the copy back, as ``flatten`` makes it."""
    x = on.images()
    return Case(
        on.moved(*[on.nhwc] * 2),
        partial(layout.contiguous, layout.channels_first(x)),
        lambda torch: shared(torch, x).contiguous,
        lambda got, ref: (np.moveaxis(got, 1, -1), ref),
    )


def cast(on: Operands) -> Case:
    """Prepare the conversion between float32 and float64."""
    x, other = on.images(), "float64" if on.dtype == np.float32 else "float32"
    return Case(
        on.moved(on.nhwc) + on.elements * np.dtype(other).itemsize,
        partial(layout.cast, x, np.dtype(other)),
        lambda torch: partial(shared(torch, x).to, getattr(torch, other)),
    )


def channel_sum(on: Operands) -> Case:
    """Prepare the gradient of a convolution's bias."""
    grad_y = on.images()
    return Case(
        grad_y.nbytes,
        partial(reduction.sum, layout.channels_first(grad_y), (0, 2, 3)),
        lambda torch: partial(shared(torch, grad_y).sum, (0, 2, 3)),
        sums=on.n * on.h * on.w,
    )


_leaky = {"negative_slope": SLOPE}
OPS: dict[str, Callable[[Operands], Case]] = {
    "max_pool2d_2x2": partial(images.max_pool, 2, 2, 0),
    "max_pool2d_2x2_backward": partial(images.max_pool_backward, 2, 2, 0),
    "max_pool2d_3x3s2": partial(images.max_pool, 3, 2, 1),
    "max_pool2d_3x3s2_backward": partial(images.max_pool_backward, 3, 2, 1),
    "avg_pool2d_2x2": images.avg_pool,
    "avg_pool2d_2x2_backward": images.avg_pool_backward,
    "adaptive_avg_pool2d_1x1": partial(images.adaptive_avg_pool, 1),
    "adaptive_avg_pool2d_1x1_backward": partial(images.adaptive_avg_pool_backward, 1),
    "adaptive_avg_pool2d_7x7": partial(images.adaptive_avg_pool, 7),
    "adaptive_avg_pool2d_7x7_backward": partial(images.adaptive_avg_pool_backward, 7),
    "batch_norm": images.batch_norm_forward,
    "batch_norm_backward": images.batch_norm_backward,
    "batch_norm_eval": images.batch_norm_eval,
    "batch_norm_eval_backward": images.batch_norm_eval_backward,
    "relu": partial(unary, activation.relu, "relu", ()),
    "relu_backward": partial(binary, activation.relu_backward, "ops.aten.threshold_backward", (0,)),
    "leaky_relu": partial(
        *(unary, partial(activation.leaky_relu, **_leaky), "nn.functional.leaky_relu", (SLOPE,))
    ),
    "leaky_relu_backward": partial(
        binary,
        partial(activation.leaky_relu_backward, **_leaky),
        *("ops.aten.leaky_relu_backward", (SLOPE, False)),
    ),
    "sigmoid": partial(unary, activation.sigmoid, "sigmoid", ()),
    "sigmoid_backward": partial(
        *(binary, activation.sigmoid_backward, "ops.aten.sigmoid_backward", ())
    ),
    "tanh": partial(unary, activation.tanh, "tanh", ()),
    "tanh_backward": partial(binary, activation.tanh_backward, "ops.aten.tanh_backward", ()),
    "add": partial(binary, elementwise.add, "add", ()),
    "multiply": partial(binary, elementwise.multiply, "mul", ()),
    "accumulate": accumulate,
    "dropout": partial(drop, False),
    "dropout_backward": partial(drop, True),
    "cross_entropy": cross_entropy,
    "cross_entropy_backward": cross_entropy_backward,
    "sgd": sgd_step,
    "adam": adam_step,
    "channels_last": to_channels_last,
    "channels_first": to_channels_first,
    "cast": cast,
    "channel_sum": channel_sum,
}
