"""Convolution."""

import math
from typing import Any

from ..engine import Parameter, Tensor, functional
from ..kernels.arrays import pair
from ..kernels.backend import array_module
from ..kernels.layout import channels_first
from . import init
from .checks import count, float_dtype
from .module import Module


class Conv2d(Module):
    """2-D convolution (cross-correlation): (N, C, H, W) or (C, H, W) to (N, K, P, Q) or (K, P, Q).

    Args:
        in_channels: C.
        out_channels: K.
        kernel_size: (R, S) in pixels, or one int for both.
        stride: Step of the window in pixels, an int or (vertical, horizontal).
        padding: Zeros on each side in pixels, an int or a pair; "valid"; "same" (stride 1).
        dilation: Distance of the taps in pixels, an int or a pair.
        groups: Independent groups of channels; divides C and K.
        bias: Whether to learn a bias (K,).
        padding_mode: Only "zeros".
        dtype: float32 (None) or float64.

    Attributes:
        weight: (K, C/groups, R, S) over (K, R, S, C/groups) memory (over its own order after
            unpickling, with the same values), uniform in +-1/sqrt(fan_in) with
            fan_in = C/groups * R * S.
        bias: (K,), uniform in the same range, or None.

    Raises:
        TypeError: An argument is no int where one is needed, or ``dtype`` is not supported.
        ValueError: A number is out of range, ``groups`` does not divide C and K, "same" with a
            stride, or another ``padding_mode``.
    """

    weight: Parameter
    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in_channels = count("Conv2d", "in_channels", in_channels)
        self.out_channels = count("Conv2d", "out_channels", out_channels)
        self.groups = count("Conv2d", "groups", groups)
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"Conv2d: in_channels={in_channels} and out_channels={out_channels} must both be "
                f"divisible by groups={groups}"
            )
        if padding_mode != "zeros":
            raise ValueError(
                f"Conv2d: padding_mode must be 'zeros', got {padding_mode!r}; there is no other "
                "kind of padding"
            )
        self.kernel_size = pair("Conv2d", "kernel_size", kernel_size, least=1)
        self.stride = pair("Conv2d", "stride", stride, least=1)
        self.dilation = pair("Conv2d", "dilation", dilation, least=1)
        if isinstance(padding, str):
            if padding not in ("valid", "same"):
                raise ValueError(f"Conv2d: padding must be 'same' or 'valid', got {padding!r}")
            if padding == "same" and self.stride != (1, 1):
                raise ValueError(f"Conv2d: padding='same' needs stride 1, got {stride!r}")
            self.padding = padding
        else:
            self.padding = pair("Conv2d", "padding", padding, least=0)
        self.padding_mode = padding_mode
        dtype = float_dtype("Conv2d", dtype)
        memory = (self.out_channels, *self.kernel_size, self.in_channels // self.groups)
        self.weight = Parameter(channels_first(array_module().empty(memory, dtype)))
        self.register_parameter(
            "bias", Parameter(array_module().empty(self.out_channels, dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(init.fan_in(self.weight))
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve; see ``functional.conv2d``."""
        return functional.conv2d(
            input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )

    def extra_repr(self) -> str:
        """Return the arguments, those that are at their default left out."""
        parts = [
            f"{self.in_channels}, {self.out_channels}",
            f"kernel_size={self.kernel_size}, stride={self.stride}",
        ]
        if self.padding != (0, 0):
            parts.append(f"padding={self.padding}")
        if self.dilation != (1, 1):
            parts.append(f"dilation={self.dilation}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        return ", ".join(parts)
