"""Pooling and batch-norm, each with the same call in PyTorch: part of ``memory_ops``."""

from functools import partial
from typing import Any

import numpy as np

from convolt.kernels import adaptive_avg_pool2d, avg_pool2d, batch_norm, max_pool2d

from .memory_case import Call, Case, Operands, on_shared, shared

MOMENTUM, EPS = 0.1, 1e-5


# Pooling


def max_pool(window: int, stride: int, padding: int, on: Operands) -> Case:
    """Prepare max pooling."""
    x, size = on.images(), on.pool(window, stride, padding)
    return Case(
        on.moved(size.x_shape, size.y_shape) + int(np.prod(size.y_shape)),
        partial(max_pool2d.forward, x, size),
        on_shared("ops.aten.max_pool2d_with_indices", x, [window] * 2, [stride] * 2, [padding] * 2),
        lambda got, ref: ((got[0], max_pool2d.indices(got[1], size)), ref),
    )


def max_pool_backward(window: int, stride: int, padding: int, on: Operands) -> Case:
    """Prepare its gradient."""
    x, size = on.images(), on.pool(window, stride, padding)
    _, argmax = max_pool2d.forward(x, size)
    grad_y, indices = on.random(*size.y_shape), max_pool2d.indices(argmax, size)
    options = ([window] * 2, [stride] * 2, [padding] * 2, [1, 1], False)
    return Case(
        on.moved(size.x_shape, size.y_shape) + argmax.nbytes,
        partial(max_pool2d.backward, grad_y, argmax, size),
        on_shared("ops.aten.max_pool2d_with_indices_backward", grad_y, x, *options, indices),
        sums=window * window,
    )


def avg_pool(on: Operands) -> Case:
    """Prepare average pooling by 2x2."""
    x, size = on.images(), on.pool(2, 2, 0)
    return Case(
        on.moved(size.x_shape, size.y_shape),
        partial(avg_pool2d.forward, x, size),
        on_shared("nn.functional.avg_pool2d", x, 2),
        sums=4,
    )


def avg_pool_backward(on: Operands) -> Case:
    """Prepare its gradient."""
    x, size = on.images(), on.pool(2, 2, 0)
    grad_y = on.random(*size.y_shape)
    options = ([2, 2], [2, 2], [0, 0], False, True, None)
    return Case(
        on.moved(size.x_shape, size.y_shape),
        partial(avg_pool2d.backward, grad_y, size),
        on_shared("ops.aten.avg_pool2d_backward", grad_y, x, *options),
    )


def adaptive_avg_pool(pixels: int, on: Operands) -> Case:
    """Prepare the mean over windows that give ``pixels`` x ``pixels``."""
    x = on.images()
    return Case(
        on.moved(on.nhwc, (on.n, pixels, pixels, on.c)),
        partial(adaptive_avg_pool2d.forward, x, pixels),
        on_shared("nn.functional.adaptive_avg_pool2d", x, pixels),
        sums=on.h * on.w,
    )


def adaptive_avg_pool_backward(pixels: int, on: Operands) -> Case:
    """Prepare its gradient."""
    x, grad_y = on.images(), on.random(on.n, pixels, pixels, on.c)

    def theirs(torch: Any) -> Call:  # by autograd: to 1x1, PyTorch takes a mean instead
        inputs = shared(torch, x).requires_grad_()
        y = torch.nn.functional.adaptive_avg_pool2d(inputs, pixels)
        return lambda: torch.autograd.grad(y, inputs, shared(torch, grad_y), retain_graph=True)[0]

    return Case(
        on.moved(on.nhwc, grad_y.shape),
        partial(adaptive_avg_pool2d.backward, grad_y, on.nhwc),
        theirs,
        sums=4,
    )


# Batch-norm


def batch_norm_forward(on: Operands) -> Case:
    """Prepare batch-norm in training."""
    x, weight, bias = on.images(), on.channels(), on.channels()
    return Case(
        on.moved(*[on.nhwc] * 3),
        partial(batch_norm.forward, x, weight, bias, None, None, MOMENTUM, EPS),
        on_shared("ops.aten.native_batch_norm", x, weight, bias, None, None, True, MOMENTUM, EPS),
        sums=on.n * on.h * on.w,
    )


def batch_norm_backward(on: Operands) -> Case:
    """Prepare its gradient."""
    x, grad_y, weight = on.images(), on.images(), on.channels()
    _, mean, inv_std = batch_norm.forward(x, weight, None, None, None, MOMENTUM, EPS)
    saved = (mean.astype(on.dtype), inv_std.astype(on.dtype))
    options = (weight, None, None, *saved, True, EPS, [True] * 3)
    return Case(
        on.moved(*[on.nhwc] * 5),
        partial(batch_norm.backward, grad_y, x, mean, inv_std, weight),
        on_shared("ops.aten.native_batch_norm_backward", grad_y, x, *options),
        lambda got, ref: (got[:3], ref),  # ours has the gradient of a residual too
        sums=on.n * on.h * on.w,
    )


def batch_norm_eval(on: Operands) -> Case:
    """Prepare batch-norm in evaluation."""
    x, weight, bias = on.images(), on.channels(), on.channels()
    running = (on.channels(), on.channels())
    options = (weight, bias, *running, False, MOMENTUM, EPS)
    return Case(
        on.moved(*[on.nhwc] * 2),
        partial(batch_norm.forward_eval, x, weight, bias, *running, EPS),
        on_shared("ops.aten.native_batch_norm", x, *options),
        lambda got, ref: (got, ref[0]),
    )


def batch_norm_eval_backward(on: Operands) -> Case:
    """Prepare its gradient."""
    x, grad_y, weight = on.images(), on.images(), on.channels()
    running = (on.channels(), on.channels())
    options = (weight, *running, None, None, False, EPS, [True] * 3)
    return Case(
        on.moved(*[on.nhwc] * 3),
        partial(batch_norm.backward_eval, grad_y, x, weight, *running, EPS),
        on_shared("ops.aten.native_batch_norm_backward", grad_y, x, *options),
        lambda got, ref: (got[:3], ref),  # ours has the gradient of a residual too
        sums=on.n * on.h * on.w,
    )
