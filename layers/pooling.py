"""Pooling: (N, C, H, W) or (C, H, W) to (N, C, P, Q) or (C, P, Q)."""

from typing import Any

from ..engine import Tensor, functional
from .module import Module


class MaxPool2d(Module):
    """Largest element of each window; arguments as ``functional.max_pool2d``.

    Args:
        kernel_size: Window in pixels, an int or (vertical, horizontal).
        stride: Step in pixels; None for ``kernel_size``.
        padding: Cells on each side that never win, at most half the window.
        dilation: Distance of the cells of a window in pixels.
        return_indices: Also return the place of each element in its H*W image, int64.
        ceil_mode: Let the last window reach over the edge.

    Raises (when called):
        TypeError: The dtype is not float32 or float64, or an argument is no int or pair.
        ValueError: The window does not fit, or a number is out of range.
    """

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def forward(self, input: Tensor) -> Any:
        """Pool; with ``return_indices`` a pair."""
        return functional.max_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
        )

    def extra_repr(self) -> str:
        """Return the arguments."""
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class AvgPool2d(Module):
    """Mean of each window; arguments as ``functional.avg_pool2d``.

    Args:
        kernel_size: Window in pixels, an int or (vertical, horizontal).
        stride: Step in pixels; None for ``kernel_size``.
        padding: Zeros on each side, at most half the window.
        ceil_mode: Let the last window reach over the edge.
        count_include_pad: Whether zeros of the padding count in the divisor.
        divisor_override: Divide by this instead.

    Raises (when called):
        TypeError: The dtype is not float32 or float64, or an argument is no int or pair.
        ValueError: The window does not fit, or a number is out of range.
    """

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def forward(self, input: Tensor) -> Tensor:
        """Pool."""
        return functional.avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    def extra_repr(self) -> str:
        """Return the main arguments."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AdaptiveAvgPool2d(Module):
    """Mean of windows placed so that the result has ``output_size``.

    Args:
        output_size: An int or (P, Q); None keeps that length. 1 is global average pooling.

    Raises (when called):
        TypeError: The dtype is not float32 or float64.
        ValueError: ``output_size`` is no pair or out of range.
    """

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Tensor) -> Tensor:
        """Pool."""
        return functional.adaptive_avg_pool2d(input, self.output_size)

    def extra_repr(self) -> str:
        """Return the argument."""
        return f"output_size={self.output_size}"
