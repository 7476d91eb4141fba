"""convolt: a tensor engine for training convnets whose kernels a person can read."""

from importlib.metadata import version as _version

from . import layers, optim
from .engine import (
    Parameter,
    Tensor,
    arange,
    cat,
    enable_grad,
    from_dlpack,
    full,
    functional,
    is_grad_enabled,
    matmul,
    maximum,
    minimum,
    no_grad,
    ones,
    ones_like,
    set_grad_enabled,
    stack,
    where,
    zeros,
    zeros_like,
)
from .engine.random import manual_seed, rand, randn
from .engine.tensor import tensor
from .kernels.backend import current_backend, use_backend

__version__ = _version("convolt")

__all__ = [
    "Parameter",
    "Tensor",
    "arange",
    "cat",
    "current_backend",
    "enable_grad",
    "from_dlpack",
    "full",
    "functional",
    "is_grad_enabled",
    "layers",
    "manual_seed",
    "matmul",
    "maximum",
    "minimum",
    "no_grad",
    "ones",
    "ones_like",
    "optim",
    "rand",
    "randn",
    "set_grad_enabled",
    "stack",
    "tensor",
    "use_backend",
    "where",
    "zeros",
    "zeros_like",
]
