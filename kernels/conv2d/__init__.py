"""2-D convolution: the contract that every backend implements.

    y[n,p,q,k] = bias[k] + sum over r,s,c of
                 x[n, p*stride_h + r*dilation_h - pad_top,
                      q*stride_w + s*dilation_w - pad_left, g*C/G + c] * w[k,r,s,c]

where g = k // (K/G) is the group of filter k, c runs over the C/G channels of that group, and x
is zero outside the image. This is what the lectures and every framework call convolution, and
mathematics calls cross-correlation. Letters follow cuDNN and CUTLASS.

Both gradients are correlations again. With stride 1, ``dgrad`` is the correlation of grad_y,
padded by (R-1)*dilation - pad, with w rotated by 180 degrees; ``wgrad`` is the correlation of
the padded x with grad_y (CS763, "backward through a convolution layer").

Arrays are C-contiguous: x (N,H,W,C), w (K,R,S,C/G), bias (K,), y (N,P,Q,K).

Infinities and NaNs reach every output that reads them. Backends differ in what else they reach:
the definition multiplies weights with the padding, numba does not, but with few channels, or few a
group, it lets neighbouring pixels or groups share a sum and multiplies them with zeros.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..arrays import (
    Array,
    Shape,
    check_floats,
    check_index_range,
    check_layout,
    empty,
    pair,
)
from ..backend import implementation
from ..batch_norm import (
    ACTIVATIONS,
    PACK_BYTES,
    GradientSums,
    Moments,
    Normalization,
    moments_of,
)


@dataclass(frozen=True, slots=True)
class Conv2dSize:
    """Sizes of one convolution: x (N,H,W,C), w (K,R,S,C/G), y (N,P,Q,K)."""

    n: int
    h: int
    w: int
    c: int
    k: int
    r: int
    s: int
    stride_h: int
    stride_w: int
    pad_top: int
    pad_bottom: int
    pad_left: int
    pad_right: int
    dilation_h: int
    dilation_w: int
    groups: int

    @classmethod
    def of(
        cls,
        x_shape: Shape,
        w_shape: Shape,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> "Conv2dSize":
        """Check a convolution and return its sizes.

        Args:
            x_shape: (N, H, W, C).
            w_shape: (K, R, S, C/groups).
            stride: Step of the window in pixels, an int or (vertical, horizontal), >= 1.
            padding: Zeros on each side in pixels, an int or (vertical, horizontal), >= 0;
                "valid" for none; "same" so that y has the size of x (stride 1 only; an odd
                total puts the larger half below and to the right, as PyTorch does).
            dilation: Distance of the taps in pixels, an int or (vertical, horizontal), >= 1.
            groups: Number of independent groups of channels, >= 1.

        Raises:
            TypeError: stride, padding, dilation or groups is not an int or a pair of ints.
            ValueError: One of them is out of range, channels do not fit the weight or the
                groups, the window does not fit the padded image, or an array would hold more
                than 2**31 - 1 elements.
        """
        if len(x_shape) != 4 or len(w_shape) != 4:
            raise ValueError(
                f"conv2d: x (N, H, W, C) and weight (K, R, S, C/groups) must have 4 axes, got "
                f"{tuple(x_shape)} and {tuple(w_shape)}"
            )
        stride = pair("conv2d", "stride", stride, least=1)
        dilation = pair("conv2d", "dilation", dilation, least=1)
        if not isinstance(padding, str):
            padding = pair("conv2d", "padding", padding, least=0)
        if isinstance(groups, bool) or not isinstance(groups, int | np.integer):
            raise TypeError(f"conv2d: groups must be an int, got {groups!r}")
        if groups < 1:
            raise ValueError(f"conv2d: groups must be >= 1, got {groups}")
        return cls._of(tuple(x_shape), tuple(w_shape), stride, padding, dilation, int(groups))

    @classmethod
    @lru_cache(maxsize=1024)
    def _of(
        cls,
        x_shape: Shape,
        w_shape: Shape,
        stride: tuple[int, int],
        padding: str | tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> "Conv2dSize":
        n, h, w, c = x_shape
        k, r, s, group_c = w_shape
        (stride_h, stride_w), (dilation_h, dilation_w) = stride, dilation
        if min(k, r, s, group_c) < 1:
            raise ValueError(
                f"conv2d: weight (K, R, S, C/groups) {tuple(w_shape)} has an empty axis"
            )
        if c % groups or k % groups:
            raise ValueError(
                f"conv2d: {c} channels and {k} filters must both be divisible by groups={groups}"
            )
        if c != group_c * groups:
            raise ValueError(
                f"conv2d: x has {c} channels {_nchw(x_shape)} but weight expects "
                f"{group_c * groups} {_nchw(w_shape)}"
                + (f" with groups={groups}" if groups > 1 else "")
                + "; change in_channels of the layer or the shape of the input"
            )
        extents = ((r - 1) * dilation_h + 1, (s - 1) * dilation_w + 1)
        pads = _pads(padding, extents, (stride_h, stride_w))
        for axis, image, extent, (before, after) in zip(
            ("high", "wide"), (h, w), extents, pads, strict=True
        ):
            if image + before + after < extent:
                raise ValueError(
                    f"conv2d: the window is {extent} pixels {axis} but the image "
                    f"{_nchw(x_shape)} padded by {before} and {after} only "
                    f"{image + before + after}; use more padding or a smaller kernel"
                )
        size = cls(
            *(n, h, w, c, k, r, s, stride_h, stride_w),
            *(*pads[0], *pads[1], dilation_h, dilation_w, groups),
        )
        check_index_range(
            "conv2d", x=n * h * w * c, weight=k * r * s * group_c, y=n * size.p * size.q * k
        )
        return size

    @property
    def p(self) -> int:
        """Height of y."""
        padded = self.h + self.pad_top + self.pad_bottom
        return (padded - (self.r - 1) * self.dilation_h - 1) // self.stride_h + 1

    @property
    def q(self) -> int:
        """Width of y."""
        padded = self.w + self.pad_left + self.pad_right
        return (padded - (self.s - 1) * self.dilation_w - 1) // self.stride_w + 1

    @property
    def x_shape(self) -> Shape:
        """(N, H, W, C)."""
        return (self.n, self.h, self.w, self.c)

    @property
    def w_shape(self) -> Shape:
        """(K, R, S, C/G)."""
        return (self.k, self.r, self.s, self.c // self.groups)

    @property
    def y_shape(self) -> Shape:
        """(N, P, Q, K)."""
        return (self.n, self.p, self.q, self.k)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one fprop, dgrad or wgrad, taps on the padding counted."""
        return self.n * self.p * self.q * self.k * self.r * self.s * self.c // self.groups

    @property
    def flops(self) -> int:
        """Floating-point operations of one fprop, dgrad or wgrad."""
        return 2 * self.multiply_adds

    def bytes(self, itemsize: int) -> int:
        """Least DRAM traffic of one fprop, dgrad or wgrad: |x| + |w| + |y|, each moved once."""
        x = self.n * self.h * self.w * self.c
        w = self.k * self.r * self.s * self.c // self.groups
        return itemsize * (x + w + self.n * self.p * self.q * self.k)


def _pads(
    padding: str | tuple[int, int], extents: tuple[int, int], stride: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return ((top, bottom), (left, right)) in pixels."""
    if isinstance(padding, str):
        if padding == "valid":
            return (0, 0), (0, 0)
        if padding != "same":
            raise ValueError(
                f"conv2d: padding must be 'same', 'valid', an int or a pair of ints, "
                f"got {padding!r}"
            )
        if stride != (1, 1):
            raise ValueError(f"conv2d: padding='same' needs stride 1, got stride {stride}")
        (top, left) = ((extent - 1) // 2 for extent in extents)
        return (top, extents[0] - 1 - top), (left, extents[1] - 1 - left)
    vertical, horizontal = padding
    return (vertical, vertical), (horizontal, horizontal)


def _nchw(shape: Shape) -> Shape:
    """Show a channels-last shape as the public N C H W one."""
    return (shape[0], shape[3], shape[1], shape[2])


def fprop(
    x: Array,
    w: Array,
    bias: Array | None,
    size: Conv2dSize,
    residual: Array | None = None,
    activation: str | None = None,
) -> Array:
    """Convolve images with filters, add bias and residual, if there are any, and activate.

    Args:
        x: Images, (N, H, W, C), float32 or float64; bfloat16 on ``cuda`` and ``emulator``,
            summed in float32.
        w: Filters, (K, R, S, C/G), dtype and backend of ``x``.
        bias: (K,), dtype and backend of ``x``, or None.
        size: ``Conv2dSize.of`` these shapes.
        residual: Added to the rounded result, (N, P, Q, K), dtype and backend of ``x``, or None.
        activation: ``"relu"``, for max(., 0) at last, or None.

    Returns:
        (N, P, Q, K), dtype of ``x``.

    Raises:
        TypeError: dtypes or backends differ, or are not supported.
        ValueError: An array does not have the shape that ``size`` says, or is not contiguous;
            there is no such activation.
    """
    _check(
        size,
        x=(x, size.x_shape),
        weight=(w, size.w_shape),
        bias=(bias, (size.k,)),
        residual=(residual, size.y_shape),
    )
    if activation not in ACTIVATIONS:
        raise ValueError(f"conv2d: activation must be 'relu' or None, got {activation!r}")
    y = empty(x, size.y_shape)
    found = implementation(__name__, x, w, bias, residual)
    if y.size:
        found.fprop(x, w, bias, y, size, residual=residual, activation=activation)
    return y


def fprop_moments(x: Array, w: Array, size: Conv2dSize) -> tuple[Array, Moments]:
    """Convolve, and take of the result what batch-norm needs for its statistics.

    Args:
        x, w, size: As ``fprop``.

    Returns:
        ``fprop(x, w, None, size)``, and ``batch_norm.moments_of`` it, cut into parts of rows as
        the implementation finds convenient: kernels that have the result in registers spare
        batch-norm one reading of it.

    Raises:
        TypeError, ValueError: As ``fprop``.
    """
    _check(size, x=(x, size.x_shape), weight=(w, size.w_shape))
    y = empty(x, size.y_shape)
    if not y.size:
        return y, moments_of(y)
    return y, Moments(*implementation(__name__, x, w).fprop_moments(x, w, y, size))


def dgrad(grad_y: Array, w: Array, size: Conv2dSize, addend: Array | None = None) -> Array:
    """Gradient with respect to x: correlation of the padded grad_y with the rotated w.

    Args:
        grad_y: (N, P, Q, K), a dtype that ``fprop`` takes.
        w: (K, R, S, C/G), dtype and backend of ``grad_y``.
        size: Of the forward convolution.
        addend: What else x has for a gradient, added to the rounded result, (N, H, W, C), dtype
            and backend of ``grad_y``, or None.

    Returns:
        (N, H, W, C): the transpose of ``fprop`` as a linear map of x, plus the addend.

    Raises:
        TypeError, ValueError: As ``fprop``.
    """
    grad_x, _ = _dgrad(grad_y, w, size, addend, None)
    return grad_x


def dgrad_sums(
    grad_y: Array, w: Array, size: Conv2dSize, below: Normalization, addend: Array | None = None
) -> tuple[Array, GradientSums | None]:
    """Gradient with respect to x, and the first step of the way back through what made x.

    Args:
        grad_y, w, size, addend: As ``dgrad``.
        below: The batch-norm whose result is x.

    Returns:
        What ``batch_norm.backward`` takes as ``grad_y`` and ``sums``: where the implementation has
        kernels with the result in registers, g, which is ``dgrad`` gone back through the
        activation, and its sums; else ``dgrad`` itself and None, as there would be nothing saved.

    Raises:
        TypeError, ValueError: As ``fprop``; an array of ``below`` does not fit x.
    """
    return _dgrad(grad_y, w, size, addend, below)


def _dgrad(
    grad_y: Array, w: Array, size: Conv2dSize, addend: Array | None, below: Normalization | None
) -> tuple[Array, GradientSums | None]:
    images = {"grad_y": (grad_y, size.y_shape), "addend": (addend, size.x_shape)}
    if below is not None:
        images |= {name: (getattr(below, name), size.x_shape) for name in ("x", "y")}
        for name in ("mean", "inv_std", "weight", "bias"):
            check_layout("conv2d", f"below.{name}", getattr(below, name), (size.c,))
        if below.signs is not None:
            pixel = size.c * below.x.itemsize // PACK_BYTES
            check_layout("conv2d", "below.signs", below.signs, (*size.x_shape[:3], pixel))
    _check(size, **images, weight=(w, size.w_shape))
    grad_x = empty(grad_y, size.x_shape)
    found = implementation(__name__, grad_y, w, addend)
    return grad_x, found.dgrad(grad_y, w, grad_x, size, addend=addend, below=below)


def wgrad(grad_y: Array, x: Array, size: Conv2dSize, grad_w: Array | None = None) -> Array:
    """Gradient with respect to w: correlation of the padded x with grad_y.

    Args:
        grad_y: (N, P, Q, K), a dtype that ``fprop`` takes.
        x: (N, H, W, C), dtype and backend of ``grad_y``.
        size: Of the forward convolution.
        grad_w: Array to fill in, (K, R, S, C/G), dtype and backend of ``grad_y``; None for a new
            one.

    Returns:
        grad_w, (K, R, S, C/G): the transpose of ``fprop`` as a linear map of w.

    Raises:
        TypeError, ValueError: As ``fprop``.
    """
    w_shape = size.w_shape
    _check(size, grad_y=(grad_y, size.y_shape), x=(x, size.x_shape), grad_w=(grad_w, w_shape))
    grad_w = empty(grad_y, w_shape) if grad_w is None else grad_w
    implementation(__name__, grad_y, x, grad_w).wgrad(grad_y, x, grad_w, size)
    return grad_w


def _check(size: Conv2dSize, **arrays: tuple[Array, Shape]) -> None:
    check_floats("conv2d", **{name: array for name, (array, _) in arrays.items()})
    for name, (array, shape) in arrays.items():
        check_layout("conv2d", name, array, shape)
