"""Functions on tensors with the names, argument order, defaults and semantics of
``torch.nn.functional``: N C H W public shapes over channels-last memory.

Unbatched inputs are taken where PyTorch takes them. ``inplace`` is accepted and changes nothing:
results are always new tensors. Errors are the contracts': ValueError for shapes and values,
TypeError for dtypes and backends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from ..kernels import activation as _activation_kernel
from ..kernels import adaptive_avg_pool2d as _adaptive_avg_pool2d_kernel
from ..kernels import avg_pool2d as _avg_pool2d_kernel
from ..kernels import batch_norm as _batch_norm_kernel
from ..kernels import conv2d as _conv2d_kernel
from ..kernels import dropout as _dropout_kernel
from ..kernels import layout, reduction
from ..kernels import max_pool2d as _max_pool2d_kernel
from ..kernels import softmax_cross_entropy as _cross_entropy_kernel
from ..kernels.arrays import (
    BFLOAT16,
    Array,
    check_floats,
    dtype_of,
    is_bfloat16,
    is_floating,
)
from ..kernels.backend import backend_of
from ..kernels.batch_norm import Normalization
from ..kernels.conv2d import Conv2dSize
from ..kernels.layout import channels_first, channels_last, channels_last_view
from ..kernels.pooling_window import PoolSize
from ..kernels.precision import current_precision
from . import ops
from .autograd import Finished, Vjp, differentiable, is_grad_enabled, jointly, no_grad, once
from .random import Generator, default_generator
from .tensor import Tensor

IntOrPair = int | Sequence[int]


def _as_tensor(op: str, x: Any, name: str = "input") -> Tensor:
    if isinstance(x, Tensor):
        return x
    if hasattr(x, "dtype") and hasattr(x, "strides"):
        return Tensor(x)
    raise TypeError(f"{op}: {name} must be a Tensor or an array, got {type(x).__name__}")


def _optional(op: str, x: Any, name: str) -> Tensor | None:
    return None if x is None else _as_tensor(op, x, name)


def _check_reduction(op: str, size_average: Any, reduce: Any, reduction: str) -> None:
    if size_average is not None or reduce is not None:
        raise ValueError(f"{op}: size_average and reduce are gone: use reduction=")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{op}: reduction must be 'none', 'mean' or 'sum', got {reduction!r}")


def _batched(op: str, x: Any) -> tuple[Tensor, bool]:
    """Return an image batch (N, C, H, W) and whether N was added."""
    x = _as_tensor(op, x)
    if x.ndim not in (3, 4):
        raise ValueError(f"{op}: input must be (N, C, H, W) or (C, H, W), got shape {x.shape}")
    return (x, False) if x.ndim == 4 else (ops.unsqueeze(x, 0), True)


def _in_precision(op: str, *operands: Tensor | None) -> list[Tensor | None]:
    """Return float32 operands of a product in bfloat16, where precision bf16 is asked for.

    Their gradients are float32 again: parameters stay the masters.
    """
    if current_precision() != "bf16":
        return list(operands)
    for x in operands:
        if x is not None and (name := backend_of(x.data)) not in ("cuda", "emulator"):
            raise ValueError(
                f"{op}: precision bf16 needs backend cuda or emulator, and this array is of "
                f"backend {name}; choose one of them, or precision ieee by use_precision or "
                "CONVOLT_PRECISION"
            )
    bfloat16 = dtype_of(BFLOAT16)
    return [
        ops.cast(x, dtype=bfloat16) if x is not None and x.dtype == np.float32 else x
        for x in operands
    ]


# Convolution and linear


def _wgrad(grad_y: Array, x: Array, size: Conv2dSize, place: Array | None) -> Array:
    """Return the gradient of a weight, (K, C/G, R, S), in its place where that lies as ours do."""
    if place is None or not (last := channels_last_view(place)).flags.c_contiguous:
        return channels_first(_conv2d_kernel.wgrad(grad_y, x, size))
    _conv2d_kernel.wgrad(grad_y, x, size, last)
    return place


def _dgrad(
    grad_y: Array, w: Array, size: Conv2dSize, before: Array | None, below: Any
) -> Array | Finished:
    """Return the gradient of an image (N, C, H, W), with what it had before, as ``adds`` asks."""
    before = None if before is None else channels_last(before)
    if not isinstance(below, Normalization):
        return channels_first(_conv2d_kernel.dgrad(grad_y, w, size, before))
    grad_x, sums = _conv2d_kernel.dgrad_sums(grad_y, w, size, below, before)
    grad_x = channels_first(grad_x)
    return grad_x if sums is None else Finished(grad_x, sums)


def _convolution(
    x: Array,
    w: Array,
    bias: Array | None,
    residual: Array | None,
    activation: str | None,
    window: dict[str, Any],
) -> tuple[Array, tuple[Vjp, ...]]:
    """Return activation(conv(x, w) + bias + residual), and the vjps of these four."""
    x, w = channels_last(x), channels_last(w)
    residual = None if residual is None else channels_last(residual)
    size = Conv2dSize.of(x.shape, w.shape, **window)
    y = _conv2d_kernel.fprop(x, w, bias, size, residual, activation)
    kept = y if activation else None

    @once
    def back(g: Array) -> Array:
        g = channels_last(g)
        return g if kept is None else _activation_kernel.relu_backward(g, kept)

    return channels_first(y), (
        lambda g, before, below: _dgrad(back(g), w, size, before, below),
        lambda g, place: _wgrad(back(g), x, size, place),
        lambda g: reduction.sum(back(g), (0, 1, 2)),
        lambda g: channels_first(back(g)),
    )


@differentiable(keeps=(0, 1), fills=(1,), adds=(0,))
def _conv2d(x: Array, w: Array, bias: Array | None, **window: Any) -> Any:
    y, vjps = _convolution(x, w, bias, None, None, window)
    return y, vjps[:3]


@differentiable(keeps=(0, 1), keeps_result=True, fills=(1,), adds=(0,))
def _conv_act(
    x: Array,
    w: Array,
    bias: Array | None,
    residual: Array | None,
    *,
    activation: str | None,
    **window: Any,
) -> Any:
    return _convolution(x, w, bias, residual, activation, window)


def _filters(op: str, weight: Any) -> Tensor:
    weight = _as_tensor(op, weight, "weight")
    if weight.ndim != 4:
        raise ValueError(f"{op}: weight must be (K, C/groups, R, S), got shape {weight.shape}")
    return weight


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: str | IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> Tensor:
    """2-D convolution (cross-correlation) of images with filters.

    Args:
        input: (N, C, H, W) or (C, H, W).
        weight: (K, C/groups, R, S).
        bias: (K,) or None.
        stride: Step of the window in pixels, an int or (vertical, horizontal).
        padding: Zeros on each side in pixels, an int or a pair; "valid"; "same" (stride 1).
        dilation: Distance of the taps in pixels, an int or a pair.
        groups: Independent groups of channels.

    Returns:
        (N, K, P, Q) or (K, P, Q), P = (H + 2 padding - dilation (R - 1) - 1) // stride + 1.

    Raises:
        TypeError: dtypes differ or are not float32 or float64.
        ValueError: Shapes do not fit, or a number is out of range.
    """
    x, added = _batched("conv2d", input)
    operands = x, _filters("conv2d", weight), _optional("conv2d", bias, "bias")
    operands = _in_precision("conv2d", *operands)
    y = _conv2d(*operands, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return ops.squeeze(y, 0) if added else y


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x w^T + bias over the last axis.

    Args:
        input: (..., C).
        weight: (K, C) or (C,).
        bias: (K,), () for a weight (C,), or None.

    Returns:
        (..., K), or (...) for a weight (C,).

    Raises:
        TypeError: dtypes differ or are not float32 or float64.
        ValueError: Shapes do not fit.
    """
    x, w = _as_tensor("linear", input), _as_tensor("linear", weight, "weight")
    bias = _optional("linear", bias, "bias")
    if not x.ndim or w.ndim not in (1, 2) or x.shape[-1] != w.shape[-1]:
        raise ValueError(
            f"linear: input {x.shape} must be (..., C) and weight {w.shape} (K, C) with the same "
            "C; change in_features of the layer or flatten the input"
        )
    features = () if w.ndim == 1 else w.shape[:1]
    if w.ndim == 1:
        w = ops.unsqueeze(w, 0)
        bias = None if bias is None else ops.reshape(bias, (1,))
    lead = x.shape[:-1]
    rows = x if x.ndim == 2 else ops.reshape(x, (prod(lead), x.shape[-1]))
    y = ops.product(*_in_precision("linear", rows, w, bias))
    return y if y.shape == (*lead, *features) else ops.reshape(y, (*lead, *features))


# Pooling


@differentiable(keeps=())
def _max_pool2d(x: Array, *, indices: list[Array] | None, **window: Any) -> Any:
    x = channels_last(x)
    size = PoolSize.of("max_pool2d", x.shape, **window)
    y, argmax = _max_pool2d_kernel.forward(x, size)
    if indices is not None:
        indices.append(channels_first(_max_pool2d_kernel.indices(argmax, size)))
    return channels_first(y), (
        lambda g: channels_first(_max_pool2d_kernel.backward(channels_last(g), argmax, size)),
    )


def max_pool2d(
    input: Tensor,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Largest element of each window; of equal ones the first, and NaN counts as largest.

    Args:
        input: (N, C, H, W) or (C, H, W).
        kernel_size: Window in pixels, an int or (vertical, horizontal).
        stride: Step in pixels; None for ``kernel_size``.
        padding: Cells on each side that never win, at most half the window.
        dilation: Distance of the cells of a window in pixels.
        ceil_mode: Let the last window reach over the edge.
        return_indices: Also return the place of each element in its H*W image, int64.

    Returns:
        (N, C, P, Q) or (C, P, Q); with ``return_indices`` a pair.

    Raises:
        TypeError: The dtype is not float32 or float64.
        ValueError: Shapes do not fit, or a number is out of range.
    """
    x, added = _batched("max_pool2d", input)
    indices: list[Array] | None = [] if return_indices else None
    y = _max_pool2d(
        x,
        indices=indices,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
    )
    y = ops.squeeze(y, 0) if added else y
    if not indices:
        return y
    return y, Tensor(indices[0][0] if added else indices[0])


@differentiable(keeps=())
def _avg_pool2d(x: Array, *, count_include_pad: bool, divisor: int | None, **window: Any) -> Any:
    x = channels_last(x)
    size = PoolSize.of("avg_pool2d", x.shape, **window)
    y = _avg_pool2d_kernel.forward(x, size, count_include_pad, divisor)
    return channels_first(y), (
        lambda g: channels_first(
            _avg_pool2d_kernel.backward(channels_last(g), size, count_include_pad, divisor)
        ),
    )


def avg_pool2d(
    input: Tensor,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Mean of each window.

    Args:
        input: (N, C, H, W) or (C, H, W).
        kernel_size: Window in pixels, an int or (vertical, horizontal).
        stride: Step in pixels; None for ``kernel_size``.
        padding: Zeros on each side, at most half the window.
        ceil_mode: Let the last window reach over the edge.
        count_include_pad: Whether zeros of the padding count in the divisor.
        divisor_override: Divide by this instead.

    Returns:
        (N, C, P, Q) or (C, P, Q).

    Raises:
        TypeError: The dtype is not float32 or float64.
        ValueError: Shapes do not fit, or a number is out of range.
    """
    x, added = _batched("avg_pool2d", input)
    y = _avg_pool2d(
        x,
        count_include_pad=count_include_pad,
        divisor=divisor_override,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=1,
        ceil_mode=ceil_mode,
    )
    return ops.squeeze(y, 0) if added else y


@differentiable(keeps=())
def _adaptive_avg_pool2d(x: Array, *, output_size: tuple[int, int]) -> Any:
    x = channels_last(x)
    y, shape = _adaptive_avg_pool2d_kernel.forward(x, output_size), x.shape
    return channels_first(y), (
        lambda g: channels_first(_adaptive_avg_pool2d_kernel.backward(channels_last(g), shape)),
    )


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Mean of windows placed so that the result has ``output_size``.

    Args:
        input: (N, C, H, W) or (C, H, W).
        output_size: An int or (P, Q); None keeps that length of the input.

    Returns:
        (N, C, P, Q) or (C, P, Q).

    Raises:
        TypeError: The dtype is not float32 or float64.
        ValueError: Shapes do not fit, or a number is out of range.
    """
    x, added = _batched("adaptive_avg_pool2d", input)
    given = output_size if isinstance(output_size, Sequence) else (output_size, output_size)
    if len(given) != 2:
        raise ValueError(f"adaptive_avg_pool2d: output_size must be a pair, got {output_size!r}")
    p, q = (n if g is None else g for g, n in zip(given, x.shape[2:], strict=True))
    y = _adaptive_avg_pool2d(x, output_size=(p, q))
    return ops.squeeze(y, 0) if added else y


# Normalization


def _normalized(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    residual: Array | None,
    activation: str | None,
    moments: Any,
    *,
    running: Sequence[Array | None],
    training: bool,
    momentum: Any,
    eps: float,
) -> tuple[Array, Callable[..., tuple[Any, ...]], Normalization | None]:
    """Return y, what gives all gradients from grad_y, and in training the call; images (..., C)."""
    mean, var = running
    if training:
        with_signs = residual is not None and activation is not None
        signs = _batch_norm_kernel.empty_signs(x) if with_signs else None
        y, batch_mean, inv_std = _batch_norm_kernel.forward(
            x, weight, bias, mean, var, momentum, eps, residual, activation, moments, signs
        )
        kept = None if residual is None else y
        call = x, batch_mean, inv_std, weight, bias, kept, activation
        back = _batch_norm_kernel.backward
        return y, lambda g, sums=None: back(g, *call, sums), Normalization.of(*call, signs)
    y = _batch_norm_kernel.forward_eval(x, weight, bias, mean, var, eps, residual, activation)
    kept = None if residual is None else y
    mean, var = layout.copy(mean), layout.copy(var)  # training may move on before backward
    call = x, weight, mean, var, eps, bias, kept, activation
    return y, lambda g: _batch_norm_kernel.backward_eval(g, *call), None


@differentiable(keeps=(0, 1))
def _batch_norm(x: Array, weight: Array | None, bias: Array | None, **options: Any) -> Any:
    y, gradients, _ = _normalized(channels_last(x), weight, bias, None, None, None, **options)
    vjps = jointly(lambda g: gradients(channels_last(g)), 3)
    return channels_first(y), (lambda g: channels_first(vjps[0](g)), vjps[1], vjps[2])


def _statistics(
    op: str, running_mean: Any, running_var: Any, training: bool, momentum: Any
) -> list[Tensor | None]:
    """Check and return the running statistics."""
    if not training and (running_mean is None or running_var is None):
        raise ValueError(f"{op}: without training, running_mean and running_var are needed")
    if training and momentum is None:
        raise TypeError(f"{op}: momentum must be a number, or an array of one; not None")
    return [
        _optional(op, running_mean, "running_mean"),
        _optional(op, running_var, "running_var"),
    ]


def _count_update(running: list[Tensor | None]) -> None:
    """Count the change of running statistics in place, as training makes it."""
    for r in running:
        if r is not None:
            r._version.count += 1


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: Any = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each channel over the batch and the image (Ioffe and Szegedy, 2015).

    Args:
        input: (N, C) or (N, C, ...).
        running_mean: (C,), updated in place when training; None only when training.
        running_var: (C,), updated with the unbiased variance; None only when training.
        weight: Scale of each channel, (C,), or None.
        bias: Shift of each channel, (C,), or None.
        training: Use the statistics of this batch instead of the running ones.
        momentum: Share of this batch in the new running statistics.
        eps: Added to the variance.

    Returns:
        The shape of ``input``.

    Raises:
        TypeError: dtypes differ or are not float32 or float64.
        ValueError: Shapes do not fit, training with one value a channel, or running statistics
            missing.
    """
    x = _as_tensor("batch_norm", input)
    if x.ndim < 2:
        raise ValueError(f"batch_norm: input must be (N, C, ...), got shape {x.shape}")
    running = _statistics("batch_norm", running_mean, running_var, training, momentum)
    y = _batch_norm(
        x,
        _optional("batch_norm", weight, "weight"),
        _optional("batch_norm", bias, "bias"),
        running=[None if r is None else r.data for r in running],
        training=training,
        momentum=momentum,
        eps=eps,
    )
    if training:
        _count_update(running)
    return y


# Convolution, normalization and activation in one


@differentiable(keeps=(0, 1, 2, 3), keeps_result=True, fills=(1,), adds=(0,))
def _conv_bn_act(
    x: Array,
    w: Array,
    weight: Array | None,
    bias: Array | None,
    residual: Array | None,
    *,
    activation: str | None,
    window: dict[str, Any],
    **options: Any,
) -> Any:
    x, w = channels_last(x), channels_last(w)
    residual = None if residual is None else channels_last(residual)
    size = Conv2dSize.of(x.shape, w.shape, **window)
    if options["training"]:
        convolved, moments = _conv2d_kernel.fprop_moments(x, w, size)
    else:
        convolved, moments = _conv2d_kernel.fprop(x, w, None, size), None
    y, gradients, normalization = _normalized(
        convolved, weight, bias, residual, activation, moments, **options
    )

    @once
    def back(g: Array | Finished) -> tuple[Any, ...]:
        if isinstance(g, Finished):
            return gradients(channels_last(g.grad), sums=g.rest)
        return gradients(channels_last(g))

    return (
        channels_first(y),
        (
            lambda g, before, below: _dgrad(back(g)[0], w, size, before, below),
            lambda g, place: _wgrad(back(g)[0], x, size, place),
            lambda g: back(g)[1],
            lambda g: back(g)[2],
            lambda g: channels_first(back(g)[3]),
        ),
        normalization,
    )


def conv_bn_act(
    input: Tensor,
    weight: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    bn_weight: Tensor | None = None,
    bn_bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = "relu",
    stride: IntOrPair = 1,
    padding: str | IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    training: bool = False,
    momentum: Any = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """activation(batch_norm(conv2d(input, weight)) + residual), with fewer passes over memory.

    The convolution leaves the sums for the statistics, where its kernel can; normalization,
    residual and activation are one pass, and their gradients two. In evaluation, where no
    gradient is recorded, the normalization goes into the weights (``fold_batch_norm``), and
    results differ from those of the single steps by rounding.

    Args:
        input: (N, C, H, W) or (C, H, W).
        weight: (K, C/groups, R, S).
        running_mean, running_var, training, momentum, eps: As ``batch_norm``.
        bn_weight: Scale of each channel, (K,), or None.
        bn_bias: Shift of each channel, (K,), or None.
        residual: Added before the activation, of the shape of the result, or None.
        activation: "relu" or None.
        stride, padding, dilation, groups: As ``conv2d``.

    Returns:
        (N, K, P, Q) or (K, P, Q).

    Raises:
        TypeError, ValueError: As ``conv2d`` and ``batch_norm``; the shape of the residual is not
            that of the result, or there is no such activation.
    """
    op = "conv_bn_act"
    x, added = _batched(op, input)
    w, residual = _filters(op, weight), _optional(op, residual, "residual")
    if added and residual is not None:
        residual = ops.unsqueeze(residual, 0)
    running = _statistics(op, running_mean, running_var, training, momentum)
    bn_weight, bn_bias = _optional(op, bn_weight, "bn_weight"), _optional(op, bn_bias, "bn_bias")
    window = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if training or is_grad_recorded(x, w, bn_weight, bn_bias, residual):
        x, w, residual = _in_precision(op, x, w, residual)
        y = _conv_bn_act(
            *(x, w, bn_weight, bn_bias, residual),
            activation=activation,
            window=window,
            running=[None if r is None else r.data for r in running],
            training=training,
            momentum=momentum,
            eps=eps,
        )
        if training:
            _count_update(running)
    else:
        w, bias = fold_batch_norm(w, running[0], running[1], bn_weight, bn_bias, eps)
        y = conv_act(x, w, bias, residual, activation, **window)
    return ops.squeeze(y, 0) if added else y


def is_grad_recorded(*inputs: Tensor | None) -> bool:
    """Return whether an op on these would be recorded for ``backward``."""
    return is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)


@no_grad
def fold_batch_norm(
    weight: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Return the weight and bias of the convolution that equals a convolution and batch-norm.

    The batch-norm is that of evaluation. Nothing is recorded for ``backward``.

    Args:
        weight: (K, C/groups, R, S).
        running_mean, running_var, eps: Of the batch-norm, (K,).
        bn_weight: (K,), or None for ones.
        bn_bias: (K,), or None for zeros.

    Returns:
        (K, C/groups, R, S) and (K,), dtype of ``weight``.

    Raises:
        TypeError: dtypes differ (with a bfloat16 ``weight`` the others are float32), or are not
            float32 or float64.
        ValueError: Shapes do not fit.
    """
    op = "fold_batch_norm"
    w = _filters(op, weight)
    mean = _as_tensor(op, running_mean, "running_mean")
    var = _as_tensor(op, running_var, "running_var")
    scale, shift = _optional(op, bn_weight, "bn_weight"), _optional(op, bn_bias, "bn_bias")
    channels = {"running_mean": mean, "running_var": var, "bn_weight": scale, "bn_bias": shift}
    _check_channels(op, w, {name: x for name, x in channels.items() if x is not None})
    factor = 1.0 / (var + eps).sqrt()
    factor = factor if scale is None else factor * scale
    bias = -mean * factor if shift is None else shift - mean * factor
    folded = w * factor.reshape(-1, 1, 1, 1)
    return ops.cast(folded, dtype=w.dtype), ops.cast(bias, dtype=w.dtype)


def _check_channels(op: str, weight: Tensor, channels: dict[str, Tensor]) -> None:
    """Raise unless there is a number for each filter, of the dtype that batch-norm asks for."""
    for name, x in channels.items():
        if x.shape != weight.shape[:1]:
            raise ValueError(
                f"{op}: {name} has shape {x.shape}, expected {weight.shape[:1]}: one number for "
                f"each filter of weight {weight.shape}"
            )
    alike = {"weight": weight} if not is_bfloat16(weight.dtype) else {}
    check_floats(op, **{name: x.data for name, x in (alike | channels).items()})


def conv_act(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    activation: str | None = "relu",
    **window: Any,
) -> Tensor:
    """activation(conv2d(input, weight, bias) + residual), in one pass where the kernel can.

    Args:
        input, weight, bias: As ``conv2d``.
        residual: Of the shape of the result, or None.
        activation: "relu" or None.
        window: Options of ``conv2d``.

    Raises:
        TypeError, ValueError: As ``conv2d``; the shape of the residual is not that of the result,
            or there is no such activation.
    """
    x, added = _batched("conv_act", input)
    w, bias = _filters("conv_act", weight), _optional("conv_act", bias, "bias")
    residual = _optional("conv_act", residual, "residual")
    if added and residual is not None:
        residual = ops.unsqueeze(residual, 0)
    operands = _in_precision("conv_act", x, w, bias, residual)
    y = _conv_act(*operands, activation=activation, **window)
    return ops.squeeze(y, 0) if added else y


# Activations


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0)."""
    return ops.relu(_as_tensor("relu", input))


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where x > 0, else ``negative_slope`` * x."""
    return ops.leaky_relu(_as_tensor("leaky_relu", input), negative_slope=float(negative_slope))


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + e ** -x)."""
    return ops.sigmoid(_as_tensor("sigmoid", input))


def tanh(input: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    return ops.tanh(_as_tensor("tanh", input))


def dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """Zero each element with probability ``p`` and scale the others by 1 / (1 - p).

    The mask depends on the generator and the public shape alone, not on memory or backend.

    Raises:
        ValueError: ``p`` lies outside [0, 1].
    """
    x = _as_tensor("dropout", input)
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p must lie in [0, 1], got {p}")
    if not training or p == 0:
        return x
    return _dropout(x, p=float(p), generator=generator or default_generator)


@differentiable(keeps=())
def _dropout(x: Array, *, p: float, generator: Generator) -> Any:
    ticket = generator.ticket(x.size, x)
    return _dropout_kernel.forward(x, p, ticket), (
        lambda g: _dropout_kernel.backward(g, p, ticket),
    )


# Losses and the functions behind them


def log_softmax(input: Tensor, dim: int | None = None) -> Tensor:
    """x - log(sum(e ** x)) along ``dim``, stable for large x.

    Raises:
        ValueError: ``dim`` is missing.
    """
    x = _as_tensor("log_softmax", input)
    if dim is None:
        raise ValueError("log_softmax: dim is needed, e.g. dim=1 for (N, C)")
    if not x.numel():
        return x * 1.0
    largest = x.detach().amax(dim, keepdim=True)
    shifted = x - ops.where(
        (largest.abs() != float("inf")).data, largest.data, 0.0
    )  # all -inf: keep NaN out of the subtraction
    return shifted - shifted.exp().sum(dim, keepdim=True).log()


def softmax(input: Tensor, dim: int | None = None) -> Tensor:
    """e ** x / sum(e ** x) along ``dim``.

    Raises:
        ValueError: ``dim`` is missing.
    """
    if dim is None:
        raise ValueError("softmax: dim is needed, e.g. dim=1 for (N, C)")
    return log_softmax(input, dim).exp()


@differentiable
def _cross_entropy(
    x: Array, target: Array, weight: Array | None, *, reduction: str, **options: Any
) -> Any:
    rows = channels_last(x).reshape(-1, x.shape[1])
    public = (x.shape[0], *x.shape[2:], x.shape[1])
    if is_floating(target.dtype):
        target = channels_last(target).reshape(-1, x.shape[1])
    else:
        target = layout.contiguous(layout.cast(target, np.int64)).reshape(-1)
    loss, saved = _cross_entropy_kernel.forward(
        rows, target, weight, reduction=reduction, **options
    )

    def grad_x(g: Array) -> Array:
        g = layout.contiguous(g).reshape(loss.shape)
        grad = _cross_entropy_kernel.backward(g, rows, target, weight, saved=saved, **options)
        return channels_first(grad.reshape(public))

    return loss, (grad_x, None, None)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: None = None,
    ignore_index: int = -100,
    reduce: None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Softmax followed by the cross-entropy with the target, fused and stable.

    Args:
        input: Logits, (C,), (N, C) or (N, C, d1, ...).
        target: Class indices, int64, of the shape of ``input`` without C; or probabilities of
            the shape and dtype of ``input``.
        weight: Weight of each class, (C,), or None.
        size_average: PyTorch's old name for ``reduction``; only None.
        ignore_index: Targets of this value count for nothing; only with class indices.
        reduce: PyTorch's old name for ``reduction``; only None.
        reduction: "none", "sum", or "mean": over the weights of the targets that count.
        label_smoothing: Share of the target spread evenly over all classes, in [0, 1].

    Returns:
        0-d; with "none" the shape of ``input`` without C. The dtype of ``input``, but float32 for
        bfloat16 logits where the call itself is made in precision bf16.

    Raises:
        TypeError: dtypes do not fit.
        ValueError: Shapes do not fit, a target is no class, or an option is out of range.
        NotImplementedError: ``target`` or ``weight`` requires a gradient.
    """
    _check_reduction("cross_entropy", size_average, reduce, reduction)
    x = _as_tensor("cross_entropy", input)
    t = _as_tensor("cross_entropy", target, "target")
    if current_precision() == "bf16":
        x, t = (
            ops.cast(a, dtype=np.dtype(np.float32)) if is_bfloat16(a.dtype) else a for a in (x, t)
        )
    weight = _optional("cross_entropy", weight, "weight")
    if not x.ndim:
        raise ValueError("cross_entropy: input must be (C,), (N, C) or (N, C, ...), got ()")
    for name, constant in (("target", target), ("weight", weight)):
        if isinstance(constant, Tensor) and constant.requires_grad and is_grad_enabled():
            raise NotImplementedError(
                f"cross_entropy: there is no gradient with respect to {name}; pass {name}.detach()"
            )
    added = x.ndim == 1
    expected = () if added else (x.shape[0], *x.shape[2:])
    probabilities = is_floating(t.dtype)
    if t.shape != (x.shape if probabilities else expected):
        raise ValueError(
            f"cross_entropy: for input {x.shape} a target of class indices has shape {expected} "
            f"and one of probabilities {x.shape}, got {t.shape} of {t.dtype}"
        )
    loss = _cross_entropy(
        ops.unsqueeze(x, 0) if added else x,
        ops.unsqueeze(t, 0) if added else t,
        weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
    return ops.reshape(loss, expected) if reduction == "none" else loss


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
) -> Tensor:
    """Mean (or "sum", or "none") of (x - target) ** 2.

    Raises:
        ValueError: The shapes differ, or ``reduction`` is unknown.
    """
    _check_reduction("mse_loss", size_average, reduce, reduction)
    x, t = _as_tensor("mse_loss", input), _as_tensor("mse_loss", target, "target")
    if x.shape != t.shape:
        raise ValueError(f"mse_loss: input {x.shape} and target {t.shape} must have one shape")
    difference = x - t
    squares = difference * difference
    return squares if reduction == "none" else getattr(squares, reduction)()
