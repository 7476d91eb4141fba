"""convolt: a tensor engine for training convnets whose kernels a person can read."""

from importlib.metadata import version as _version

from . import layers, optim
from .engine import (
    Parameter,
    Tensor,
    cat,
    enable_grad,
    from_dlpack,
    functional,
    is_grad_enabled,
    matmul,
    maximum,
    minimum,
    no_grad,
    set_grad_enabled,
    stack,
    where,
)
from .engine.random import manual_seed, rand, randn
from .engine.tensor import tensor
from .kernels.backend import current_backend, use_backend

__version__ = _version("convolt")

__all__ = [
    "Parameter",
    "Tensor",
    "cat",
    "current_backend",
    "enable_grad",
    "from_dlpack",
    "functional",
    "is_grad_enabled",
    "layers",
    "manual_seed",
    "matmul",
    "maximum",
    "minimum",
    "no_grad",
    "optim",
    "rand",
    "randn",
    "set_grad_enabled",
    "stack",
    "tensor",
    "use_backend",
    "where",
]
