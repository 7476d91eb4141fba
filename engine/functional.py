"""Functions on tensors with the names, argument order, defaults and semantics of
``torch.nn.functional``: N C H W public shapes over channels-last memory.

Unbatched inputs are taken where PyTorch takes them. ``inplace`` is accepted and changes nothing:
results are always new tensors. Errors are the contracts': ValueError for shapes and values,
TypeError for dtypes and backends.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from ..kernels import adaptive_avg_pool2d as _adaptive_avg_pool2d_kernel
from ..kernels import avg_pool2d as _avg_pool2d_kernel
from ..kernels import batch_norm as _batch_norm_kernel
from ..kernels import conv2d as _conv2d_kernel
from ..kernels import dropout as _dropout_kernel
from ..kernels import layout, reduction
from ..kernels import max_pool2d as _max_pool2d_kernel
from ..kernels import softmax_cross_entropy as _cross_entropy_kernel
from ..kernels.arrays import Array, is_floating
from ..kernels.conv2d import Conv2dSize
from ..kernels.layout import channels_first, channels_last, channels_last_view
from ..kernels.pooling_window import PoolSize
from . import ops
from .autograd import differentiable, is_grad_enabled, jointly, once
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


# Convolution and linear


@differentiable(keeps=(0, 1), fills=(1,))
def _conv2d(x: Array, w: Array, bias: Array | None, **window: Any) -> Any:
    x, w = channels_last(x), channels_last(w)
    size = Conv2dSize.of(x.shape, w.shape, **window)
    grad_last = once(channels_last)

    def grad_w(g: Array, place: Array | None) -> Array:
        if place is None or not (last := channels_last_view(place)).flags.c_contiguous:
            return channels_first(_conv2d_kernel.wgrad(grad_last(g), x, size))
        _conv2d_kernel.wgrad(grad_last(g), x, size, last)
        return place

    return channels_first(_conv2d_kernel.fprop(x, w, bias, size)), (
        lambda g: channels_first(_conv2d_kernel.dgrad(grad_last(g), w, size)),
        grad_w,
        lambda g: reduction.sum(g, (0, 2, 3)),
    )


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
    weight, bias = _as_tensor("conv2d", weight, "weight"), _optional("conv2d", bias, "bias")
    if weight.ndim != 4:
        raise ValueError(f"conv2d: weight must be (K, C/groups, R, S), got shape {weight.shape}")
    y = _conv2d(x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)
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
    y = ops.product(rows, w, bias)
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


@differentiable(keeps=(0, 1))
def _batch_norm(
    x: Array, weight: Array | None, bias: Array | None, *, running: Any, training: bool, **numbers
) -> Any:
    x = channels_last(x)
    mean, var = running
    momentum, eps = numbers["momentum"], numbers["eps"]
    if training:
        y, batch_mean, inv_std = _batch_norm_kernel.forward(
            x, weight, bias, mean, var, momentum, eps
        )

        def gradients(g: Array) -> tuple[Array, ...]:
            return _batch_norm_kernel.backward(channels_last(g), x, batch_mean, inv_std, weight)
    else:
        y = _batch_norm_kernel.forward_eval(x, weight, bias, mean, var, eps)
        mean, var = layout.copy(mean), layout.copy(var)  # training may move on before backward

        def gradients(g: Array) -> tuple[Array, ...]:
            return _batch_norm_kernel.backward_eval(channels_last(g), x, weight, mean, var, eps)

    vjps = jointly(gradients, 3)
    return channels_first(y), (lambda g: channels_first(vjps[0](g)), vjps[1], vjps[2])


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
    if not training and (running_mean is None or running_var is None):
        raise ValueError("batch_norm: without training, running_mean and running_var are needed")
    if training and momentum is None:
        raise TypeError("batch_norm: momentum must be a number, or an array of one; not None")
    running = [
        _optional("batch_norm", running_mean, "running_mean"),
        _optional("batch_norm", running_var, "running_var"),
    ]
    y = _batch_norm(
        x,
        _optional("batch_norm", weight, "weight"),
        _optional("batch_norm", bias, "bias"),
        running=[None if r is None else r.data for r in running],
        training=training,
        momentum=momentum,
        eps=eps,
    )
    for r in running:
        if training and r is not None:
            r._version.count += 1
    return y


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
        0-d; with "none" the shape of ``input`` without C.

    Raises:
        TypeError: dtypes do not fit.
        ValueError: Shapes do not fit, a target is no class, or an option is out of range.
        NotImplementedError: ``target`` or ``weight`` requires a gradient.
    """
    _check_reduction("cross_entropy", size_average, reduce, reduction)
    x = _as_tensor("cross_entropy", input)
    t = _as_tensor("cross_entropy", target, "target")
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
