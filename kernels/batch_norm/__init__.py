"""Batch normalization: the contract that every backend implements.

    x_hat[m,c] = (x[m,c] - mean[c]) * inv_std[c],   inv_std[c] = 1 / sqrt(var[c] + eps)
    y[m,c] = activation(weight[c] * x_hat[m,c] + bias[c] + residual[m,c])

where the activation is max(., 0), "relu", or nothing, and the residual may be missing. In
training, mean[c] and var[c] are the mean and the biased variance of the M values of channel c, and
the running statistics follow them, the variance corrected to the unbiased one:

    running_mean = (1 - momentum) * running_mean + momentum * mean
    running_var  = (1 - momentum) * running_var  + momentum * var * M / (M - 1)

In evaluation the running statistics take the place of mean and var, and are constants.

Gradients (Ioffe & Szegedy 2015, section 3, the chain rule written out and simplified):

    g = grad_y where y > 0, else 0; without an activation g = grad_y
    grad_residual = g
    grad_bias[c] = sum over m of g[m,c]
    grad_weight[c] = sum over m of g[m,c] * x_hat[m,c]
    grad_x = weight * inv_std * (g - grad_bias / M - x_hat * grad_weight / M)    training
    grad_x = weight * inv_std * g                                                evaluation

so that the backward pass reads its arrays twice: once for the two sums, once for grad_x. Where y
was positive is computed anew from x, which is read anyway, and moves no byte more. With a residual
it is read from y, and the pass of the sums writes g, which the second pass reads in the place of
grad_y and y: 5 arrays read and 2 written, one less than with the mask applied in both.

Arrays are C-contiguous with the channels last: x (..., C), M the product of the other axes;
weight, bias, running_mean, running_var (C,). Statistics are float64 whatever x is: float32 would
lose x - mean where the mean is much larger than the deviation. For a bfloat16 x (backends cuda
and emulator) weight, bias, running_mean and running_var and the gradients of weight and bias are
float32: in 8 bits, small steps would leave them where they are.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import (
    FLOATS,
    Array,
    check_floats,
    check_index_range,
    check_layout,
    empty,
    full,
    is_bfloat16,
)
from ..backend import backend_of, implementation

ACTIVATIONS = (None, "relu")
PACK_BYTES = 16  # of y, whose signs are a byte


@dataclass(frozen=True, slots=True)
class Moments:
    """What the statistics of x (M, C) are made of, part by part of its rows.

    Attributes:
        means: (parts, C), float32 or float64: the mean of each channel.
        squares: (parts, C), the same: the sum of the squared deviations from this mean.
        rows: Of a part; the last one has the rest of the M.
    """

    means: Array
    squares: Array
    rows: int

    def counts(self, m: int) -> np.ndarray:
        """Return the number of rows of each part."""
        return np.minimum(self.rows, m - self.rows * np.arange(len(self.means)))


@dataclass(frozen=True, slots=True)
class Normalization:
    """A call of ``forward`` as ``backward`` sees it: its arguments after ``grad_y``."""

    x: Array
    mean: Array
    inv_std: Array
    weight: Array
    bias: Array
    y: Array | None
    activation: str | None
    signs: Array | None = None  # of y

    @classmethod
    def of(
        cls,
        x: Array,
        mean: Array,
        inv_std: Array,
        weight: Array | None,
        bias: Array | None,
        y: Array | None,
        activation: str | None,
        signs: Array | None = None,
    ) -> "Normalization":
        """Take ones for a missing weight and zeros for a missing bias."""
        weight, bias = _full(weight, x, 1), _full(bias, x, 0)
        return cls(x, mean, inv_std, weight, bias, y, activation, signs)


@dataclass(frozen=True, slots=True)
class GradientSums:
    """What ``backward`` asks of g over all rows, in parts that together are all rows.

    Attributes:
        sums: (parts, C), float32 or float64: of each channel the sum of g.
        products: (parts, C), the same: the sum of g * (x - mean).
    """

    sums: Array
    products: Array

    def parts(self, first: int) -> "GradientSums":
        """Return the parts from ``first`` on, in the same memory."""
        return GradientSums(self.sums[first:], self.products[first:])


def empty_signs(x: Array) -> Array | None:
    """Return an array for the signs of y, where ``conv2d.dgrad_sums`` reads them in y's place.

    Args:
        x: (..., C), as in ``forward``.

    Returns:
        (..., bytes), uint8: bit i of a byte tells whether element i of 16 bytes of y is more than
        0. None where C is no whole number of 16 bytes, and on numpy and numba, which read y.
    """
    elements = PACK_BYTES // x.itemsize
    if backend_of(x) not in ("cuda", "emulator") or x.shape[-1] % elements:
        return None
    return empty(x, (*x.shape[:-1], x.shape[-1] // elements), np.uint8)


def moments_of(x: Array) -> Moments:
    """Return the moments of x, (..., C), float32 or float64, or bfloat16 on cuda and emulator.

    Raises:
        TypeError: The dtype is not supported.
        ValueError: x has less than 2 axes or is not contiguous.
    """
    m, c = _check(x)
    if not x.size:
        none = np.zeros_like(x, dtype=np.float64, shape=(0, c))
        return Moments(none, none, 1)
    return Moments(*implementation(__name__, x).moments(x.reshape(m, c)))


def forward(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    momentum: Array | float,
    eps: float,
    residual: Array | None = None,
    activation: str | None = None,
    moments: Moments | None = None,
    signs: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Normalize by the statistics of the batch; update the running ones in place.

    Args:
        x: (..., C), float32 or float64, or bfloat16 on cuda and emulator.
        weight: (C,), dtype and backend of ``x`` (float32 for bfloat16), or None for ones.
        bias: (C,), dtype and backend of ``weight``, or None for zeros.
        running_mean: (C,), dtype and backend of ``weight``, or None.
        running_var: The same; both or neither.
        momentum: Weight of the new statistics, an array of one float32 or float64 (on the
            backend of ``x``) or a number; not looked at without running statistics.
        eps: Added to the variance, > 0.
        residual: Added before the activation, shape, dtype and backend of ``x``, or None.
        activation: ``"relu"`` or None.
        moments: ``moments_of(x)``, where they are known; None to take them.
        signs: ``empty_signs(x)`` to be filled in, or None.

    Returns:
        y (..., C), dtype of ``x``; mean (C,) and inv_std (C,), float64, for ``backward``. An
        empty batch gives an empty y and zeros, and leaves the running statistics alone.

    Raises:
        TypeError: dtypes or backends differ, or are not supported.
        ValueError: An array does not have its shape or is not contiguous; M is 1, so that there
            is no variance; only one running statistic is given; momentum is not one number;
            eps is not positive; there is no such activation.
    """
    channels = {"weight": weight, "bias": bias}
    statistics = {"running_mean": running_mean, "running_var": running_var}
    m, c = _check(x, {"residual": residual}, **channels, **statistics)
    relu = _is_relu(activation)
    if (running_mean is None) != (running_var is None):
        raise ValueError("batch_norm: give both running_mean and running_var, or neither")
    if not eps > 0:
        raise ValueError(f"batch_norm: eps must be > 0 in training, got {eps}")
    if m == 1:
        raise ValueError(
            f"batch_norm: expected more than 1 value per channel when training, got x of shape "
            f"{tuple(x.shape)} (channels last); use a larger batch or eval()"
        )
    momentum = _scalar(momentum, x)
    y = empty(x, x.shape)
    mean = np.zeros_like(x, dtype=np.float64, shape=(c,))
    inv_std = np.zeros_like(mean)
    if x.size:
        moments = moments or moments_of(x)
        weight, bias = _full(weight, x, 1), _full(bias, x, 0)
        operands = (x.reshape(m, c), weight, bias, running_mean, running_var, momentum)
        implementation(__name__, *operands, residual).forward(
            *operands,
            eps,
            _rows(residual, m, c),
            relu,
            moments,
            y.reshape(m, c),
            mean,
            inv_std,
            signs,
        )
    return y, mean, inv_std


def backward(
    grad_y: Array,
    x: Array,
    mean: Array,
    inv_std: Array,
    weight: Array | None,
    bias: Array | None = None,
    y: Array | None = None,
    activation: str | None = None,
    sums: GradientSums | None = None,
) -> tuple[Array, Array, Array, Array | None]:
    """Gradients of ``forward`` with respect to x, weight, bias and residual.

    Args:
        grad_y: (..., C), dtype of ``x``.
        x: (..., C), as in ``forward``.
        mean: (C,), float64, from ``forward``.
        inv_std: (C,), float64, from ``forward``.
        weight: (C,), as in ``forward``.
        bias: (C,), as in ``forward``; looked at with an activation and no y.
        y: (..., C), from ``forward``: needed with an activation after a residual, else None.
        activation: As in ``forward``.
        sums: Those of g, where they are known; ``grad_y`` is g then.

    Returns:
        grad_x (..., C), dtype of ``x``; grad_weight (C,), grad_bias (C,), dtype of ``weight``;
        grad_residual (..., C), dtype of ``x``: where ``grad_y`` is g that itself, else without y
        None.

    Raises:
        TypeError, ValueError: As ``forward``.
    """
    m, c = _check(x, {"grad_y": grad_y, "y": y}, weight=weight, bias=bias)
    relu = _is_relu(activation) and sums is None
    for name, array in (("mean", mean), ("inv_std", inv_std)):
        if array.dtype != np.float64:
            raise TypeError(f"batch_norm: {name} has dtype {array.dtype}, expected float64")
        check_layout("batch_norm", name, array, (c,))
    grad_x, grad_weight, grad_bias = _gradients(x, c)
    y = y if relu else None
    grad_residual = None if y is None else empty(x, x.shape)
    if x.size:
        weight, bias = _full(weight, x, 1), _full(bias, x, 0)
        operands = (grad_y.reshape(m, c), x.reshape(m, c), mean, inv_std, weight, bias)
        implementation(__name__, *operands, y).backward(
            *operands,
            _rows(y, m, c),
            relu,
            sums,
            grad_x.reshape(m, c),
            grad_weight,
            grad_bias,
            _rows(grad_residual, m, c),
        )
    return grad_x, grad_weight, grad_bias, grad_residual if relu else grad_y


def forward_eval(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array,
    running_var: Array,
    eps: float,
    residual: Array | None = None,
    activation: str | None = None,
) -> Array:
    """Normalize by the running statistics.

    Args:
        x, weight, bias, residual, activation: As ``forward``.
        running_mean: (C,), dtype and backend of ``weight``.
        running_var: The same.
        eps: Added to the variance.

    Returns:
        (..., C), dtype of ``x``.

    Raises:
        TypeError, ValueError: As ``forward``; M may be 1.
    """
    channels = {"weight": weight, "bias": bias}
    statistics = {"running_mean": running_mean, "running_var": running_var}
    m, c = _check(x, {"residual": residual}, **channels, **statistics)
    _check_given(running_mean, running_var)
    relu = _is_relu(activation)
    y = empty(x, x.shape)
    if x.size:
        weight, bias = _full(weight, x, 1), _full(bias, x, 0)
        operands = (x.reshape(m, c), weight, bias, running_mean, running_var)
        implementation(__name__, *operands, residual).forward_eval(
            *operands, eps, _rows(residual, m, c), relu, y.reshape(m, c)
        )
    return y


def backward_eval(
    grad_y: Array,
    x: Array,
    weight: Array | None,
    running_mean: Array,
    running_var: Array,
    eps: float,
    bias: Array | None = None,
    y: Array | None = None,
    activation: str | None = None,
) -> tuple[Array, Array, Array, Array | None]:
    """Gradients of ``forward_eval`` with respect to x, weight, bias and residual.

    Args:
        grad_y, y: (..., C), as ``backward``.
        x, weight, running_mean, running_var, eps, bias, activation: As ``forward_eval``.

    Returns:
        What ``backward`` returns.

    Raises:
        TypeError, ValueError: As ``forward_eval``.
    """
    channels = {"weight": weight, "bias": bias}
    statistics = {"running_mean": running_mean, "running_var": running_var}
    m, c = _check(x, {"grad_y": grad_y, "y": y}, **channels, **statistics)
    _check_given(running_mean, running_var)
    relu = _is_relu(activation)
    grad_x, grad_weight, grad_bias = _gradients(x, c)
    y = y if relu else None
    grad_residual = None if y is None else empty(x, x.shape)
    if x.size:
        weight, bias = _full(weight, x, 1), _full(bias, x, 0)
        operands = (grad_y.reshape(m, c), x.reshape(m, c), weight, bias, running_mean, running_var)
        implementation(__name__, *operands, y).backward_eval(
            *operands,
            eps,
            _rows(y, m, c),
            relu,
            grad_x.reshape(m, c),
            grad_weight,
            grad_bias,
            _rows(grad_residual, m, c),
        )
    return grad_x, grad_weight, grad_bias, grad_residual if relu else grad_y


def _check(x: Array, alike: dict[str, Any] | None = None, **channels: Any) -> tuple[int, int]:
    """Check dtypes and shapes, those of arrays ``alike`` against x's; return (M, C)."""
    alike = alike or {}
    check_floats("batch_norm", x=x, **alike)
    if not is_bfloat16(x.dtype):
        check_floats("batch_norm", x=x, **channels)
    else:
        for name, array in channels.items():
            check_floats("batch_norm", **{name: array})
            if array is not None and array.dtype != np.float32:
                raise TypeError(
                    f"batch_norm: {name} has dtype {array.dtype}, expected float32 for a bfloat16 "
                    f"x: convert it first, {name}.astype('float32')"
                )
    if x.ndim < 2:
        raise ValueError(
            f"batch_norm: x must be (..., C) with at least 2 axes, got shape {tuple(x.shape)}"
        )
    check_layout("batch_norm", "x", x, x.shape)
    for name, array in alike.items():
        check_layout("batch_norm", name, array, x.shape)
    for name, array in channels.items():
        check_layout("batch_norm", name, array, x.shape[-1:])
    check_index_range("batch_norm", x=x.size)
    return math.prod(x.shape[:-1]), x.shape[-1]


def _check_given(running_mean: Array, running_var: Array) -> None:
    if running_mean is None or running_var is None:
        raise ValueError("batch_norm: evaluation needs running_mean and running_var")


def _is_relu(activation: str | None) -> bool:
    if activation not in ACTIVATIONS:
        raise ValueError(f"batch_norm: activation must be 'relu' or None, got {activation!r}")
    return activation == "relu"


def _rows(array: Array | None, m: int, c: int) -> Array | None:
    return None if array is None else array.reshape(m, c)


def _channel_dtype(x: Array) -> np.dtype:
    """Dtype of weight, bias and running statistics."""
    return np.dtype(np.float32) if is_bfloat16(x.dtype) else x.dtype


def _full(array: Array | None, x: Array, value: float) -> Array:
    """Return ``array``, or a constant for each channel in its place."""
    if array is not None:
        return array
    return np.full_like(x, value, dtype=_channel_dtype(x), shape=x.shape[-1:])


def _scalar(momentum: Array | float, x: Array) -> Array:
    """Return momentum as a 0-d array on the backend of ``x``."""
    if isinstance(momentum, float | int | np.number):
        return full(x, float(momentum), (), np.float64)
    if momentum.dtype not in FLOATS:
        raise TypeError(f"batch_norm: momentum has dtype {momentum.dtype}, expected a float dtype")
    if momentum.size != 1:
        raise ValueError(f"batch_norm: momentum must be one number, got shape {momentum.shape}")
    return momentum.reshape(())


def _gradients(x: Array, c: int) -> tuple[Array, Array, Array]:
    grad_weight, grad_bias = (
        np.zeros_like(x, dtype=_channel_dtype(x), shape=(c,)) for _ in range(2)
    )
    return empty(x, x.shape), grad_weight, grad_bias
