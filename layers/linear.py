"""The fully connected layer, and what stands before it: flatten, identity."""

import math
from typing import Any

from ..engine import Parameter, Tensor, functional
from ..kernels.backend import array_module
from . import init
from .checks import count, float_dtype
from .module import Module


class Linear(Module):
    """y = x w^T + bias: (..., C) to (..., K).

    Args:
        in_features: C.
        out_features: K.
        bias: Whether to learn a bias (K,).
        dtype: float32 (None) or float64.

    Attributes:
        weight: (K, C), uniform in +-1/sqrt(C).
        bias: (K,), uniform in the same range, or None.

    Raises:
        TypeError: A number of features is no int, or ``dtype`` is not supported.
        ValueError: A number of features is below 1.
    """

    weight: Parameter
    bias: Parameter | None

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, dtype: Any = None
    ) -> None:
        super().__init__()
        self.in_features = count("Linear", "in_features", in_features)
        self.out_features = count("Linear", "out_features", out_features)
        dtype = float_dtype("Linear", dtype)
        empty = array_module().empty
        self.weight = Parameter(empty((self.out_features, self.in_features), dtype))
        self.register_parameter(
            "bias", Parameter(empty(self.out_features, dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        """Multiply; see ``functional.linear``."""
        return functional.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )


class Flatten(Module):
    """Merge axes ``start_dim`` to ``end_dim``: (N, C, H, W) to (N, C*H*W) unless told otherwise.

    Raises (when called):
        IndexError: An axis is out of range.
        ValueError: ``start_dim`` lies behind ``end_dim``.
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: Tensor) -> Tensor:
        """Merge, in C, H, W order."""
        return input.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Identity(Module):
    """The input itself; takes any arguments, to stand in for another layer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input``."""
        return input
