"""convolt: a tensor engine for training convnets whose kernels a person can read."""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import Any as _Any

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
from .engine.random import Generator, manual_seed, rand, randn
from .engine.tensor import tensor
from .kernels.backend import current_backend, empty_cache, use_backend
from .kernels.cpu.thread_count import get_num_threads, set_num_threads
from .kernels.precision import use_precision

__version__ = _version("convolt")

__all__ = [
    "Generator",
    "Parameter",
    "Tensor",
    "arange",
    "cat",
    "current_backend",
    "empty_cache",
    "enable_grad",
    "from_dlpack",
    "full",
    "functional",
    "get_num_threads",
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
    "set_num_threads",
    "stack",
    "tensor",
    "use_backend",
    "use_precision",
    "where",
    "zeros",
    "zeros_like",
]


def __getattr__(name: str) -> _Any:
    """Import the rooms that ``import convolt`` leaves out when they are first asked for."""
    if name in ("data", "models", "training"):
        return _import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
