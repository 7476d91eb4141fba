"""New tensors on the current backend, with PyTorch's names: zeros, ones, full, arange."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernels.arrays import dtype_of
from ..kernels.backend import array_module
from .tensor import Tensor, _sequence


def zeros(*shape: Any, dtype: Any = np.float32, requires_grad: bool = False) -> Tensor:
    """Return zeros of this shape, given as zeros(2, 3) or zeros((2, 3))."""
    return Tensor(array_module().zeros(_sequence(shape), dtype_of(dtype)), requires_grad)


def ones(*shape: Any, dtype: Any = np.float32, requires_grad: bool = False) -> Tensor:
    """Return ones of this shape, given as ones(2, 3) or ones((2, 3))."""
    return Tensor(array_module().ones(_sequence(shape), dtype_of(dtype)), requires_grad)


def full(shape: Any, fill_value: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Return a tensor of one value; a Python float means float32, an int int64."""
    value = fill_value.item() if hasattr(fill_value, "item") else fill_value
    dtype = Tensor(fill_value).dtype if dtype is None else dtype_of(dtype)
    array = array_module().empty(shape, dtype)
    array.fill(value)
    return Tensor(array, requires_grad)


def zeros_like(x: Tensor, dtype: Any = None) -> Tensor:
    """Return zeros of the shape, memory order and backend of ``x``."""
    return Tensor(np.zeros_like(x.data, dtype=_or_none(dtype)))


def ones_like(x: Tensor, dtype: Any = None) -> Tensor:
    """Return ones of the shape, memory order and backend of ``x``."""
    return Tensor(np.ones_like(x.data, dtype=_or_none(dtype)))


def arange(start: float, end: float | None = None, step: float = 1, dtype: Any = None) -> Tensor:
    """Return start, start + step, ... below ``end``; arange(n) counts from 0.

    Integers give int64, otherwise float32.
    """
    start, end = (0, start) if end is None else (start, end)
    if dtype is None:
        whole = all(isinstance(v, int | np.integer) for v in (start, end, step))
        dtype = np.int64 if whole else np.float32
    return Tensor(array_module().arange(start, end, step, dtype=dtype))


def _or_none(dtype: Any) -> np.dtype | None:
    return None if dtype is None else dtype_of(dtype)
