"""Initial weights, written in place: each function fills a Tensor and returns it.

Names, arguments and defaults are those of ``torch.nn.init``. Numbers are drawn in the C order of
the public shape, so that they do not depend on the memory order of the weight.

A weight is (K, C, ...): fan_in = C * window, the inputs of one output; fan_out = K * window, the
outputs that one input feeds (of one group).
"""

import math
from typing import Literal

from ..engine import Tensor
from ..engine import random as _random
from ..engine.random import Generator

Mode = Literal["fan_in", "fan_out"]


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with 0."""
    return tensor.copy_(0)


def ones_(tensor: Tensor) -> Tensor:
    """Fill with 1."""
    return tensor.copy_(1)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with ``val``."""
    return tensor.copy_(val)


def uniform_(
    tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Fill with numbers uniform between ``a`` and ``b``.

    Raises:
        TypeError: The dtype is not float32 or float64.
    """
    return tensor.copy_(_random.uniform(tensor.shape, a, b, tensor.dtype, generator))


def normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Fill with normally distributed numbers; the lectures' "small random numbers" have std 0.01.

    Raises:
        TypeError: The dtype is not float32 or float64.
    """
    return tensor.copy_(_random.normal(tensor.shape, mean, std, tensor.dtype, generator))


def fan_in(tensor: Tensor) -> int:
    """Return the number of inputs of one output: C * window.

    Raises:
        ValueError: The tensor has fewer than two axes or no elements.
    """
    return _fans(tensor)[0]


def fan_out(tensor: Tensor) -> int:
    """Return the number of outputs that one input feeds: K * window.

    Raises:
        ValueError: The tensor has fewer than two axes or no elements.
    """
    return _fans(tensor)[1]


def _fans(tensor: Tensor) -> tuple[int, int]:
    if tensor.ndim < 2 or not tensor.numel():
        raise ValueError(
            f"fan_in and fan_out need a weight (K, C, ...) without empty axes, got {tensor.shape}"
        )
    k, c, *window = tensor.shape
    return c * math.prod(window), k * math.prod(window)


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Return the factor by which std must grow to make up for a nonlinearity.

    Args:
        nonlinearity: "linear", "conv1d" to "conv3d", "sigmoid", "tanh" (5/3), "relu" (sqrt 2),
            "leaky_relu" (sqrt(2 / (1 + slope^2))), "selu" (3/4).
        param: The slope of leaky_relu; None for 0.01.

    Raises:
        ValueError: There is no such nonlinearity.
    """
    slope = 0.01 if param is None else param
    gains = {
        **dict.fromkeys(("linear", "conv1d", "conv2d", "conv3d", "sigmoid"), 1.0),
        "tanh": 5 / 3,
        "relu": math.sqrt(2),
        "leaky_relu": math.sqrt(2 / (1 + slope**2)),
        "selu": 3 / 4,
    }
    if nonlinearity not in gains:
        raise ValueError(
            f"calculate_gain: unknown nonlinearity {nonlinearity!r}; known are {', '.join(gains)}"
        )
    return gains[nonlinearity]


def _uniform_of(tensor: Tensor, std: float, generator: Generator | None) -> Tensor:
    """Uniform with standard deviation ``std``: over +-sqrt(3) std."""
    bound = math.sqrt(3) * std
    return uniform_(tensor, -bound, bound, generator)


def lecun_uniform_(tensor: Tensor, generator: Generator | None = None) -> Tensor:
    """Uniform with variance 1 / fan_in (LeCun et al., "Efficient BackProp", 1998).

    Raises:
        ValueError: The tensor has fewer than two axes or no elements.
    """
    return _uniform_of(tensor, 1 / math.sqrt(fan_in(tensor)), generator)


def lecun_normal_(tensor: Tensor, generator: Generator | None = None) -> Tensor:
    """Normal with variance 1 / fan_in (LeCun et al., "Efficient BackProp", 1998).

    Raises:
        ValueError: The tensor has fewer than two axes or no elements.
    """
    return normal_(tensor, 0.0, 1 / math.sqrt(fan_in(tensor)), generator)


def xavier_uniform_(
    tensor: Tensor, gain: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Uniform with variance gain^2 * 2 / (fan_in + fan_out) (Glorot and Bengio, 2010).

    Raises:
        ValueError: The tensor has fewer than two axes or no elements.
    """
    return _uniform_of(tensor, gain * math.sqrt(2 / sum(_fans(tensor))), generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Normal with variance gain^2 * 2 / (fan_in + fan_out) (Glorot and Bengio, 2010).

    Raises:
        ValueError: The tensor has fewer than two axes or no elements.
    """
    return normal_(tensor, 0.0, gain * math.sqrt(2 / sum(_fans(tensor))), generator)


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: Mode = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Uniform with variance gain^2 / fan (He et al., 2015).

    Args:
        tensor: (K, C, ...).
        a: Slope of the leaky ReLU that follows; 0 for ReLU.
        mode: "fan_in" keeps the variance forward, "fan_out" backward.
        nonlinearity: See ``calculate_gain``.
        generator: None for the default stream.

    Raises:
        ValueError: The tensor has fewer than two axes or no elements; ``mode`` or
            ``nonlinearity`` is unknown.
    """
    return _uniform_of(tensor, _kaiming_std(tensor, a, mode, nonlinearity), generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: Mode = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Normal with variance gain^2 / fan (He et al., 2015); arguments as ``kaiming_uniform_``.

    Raises:
        ValueError: As ``kaiming_uniform_``.
    """
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"kaiming: mode must be 'fan_in' or 'fan_out', got {mode!r}")
    fan = _fans(tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)
