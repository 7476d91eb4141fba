"""Sums and extrema over axes.

    sum      y[kept] = sum over the reduced axes of x
    max, min y[kept] = the largest, smallest element; NaN if there is one
    argmax, argmin  y[kept] = index of the first such element along one axis; NaN comes first

Arrays of bools, integers or floats have any strides; results are C-contiguous. Sums of floats
accumulate in float64, in an order that depends on shape and strides alone. All functions raise
TypeError for bfloat16 on a backend other than cuda and emulator.
"""

from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .. import layout
from ..arrays import Array, Shape, empty, is_bfloat16, is_float
from ..backend import backend_of, implementation

Axes = int | Iterable[int] | None


def axes_of(op: str, x: Array, axes: Axes) -> tuple[int, ...]:
    """Return ``axes`` as sorted, distinct, non-negative ints; None and () mean all, as PyTorch.

    Raises:
        IndexError: An axis is out of range.
        ValueError: An axis is named twice.
    """
    if axes is None:
        return tuple(range(x.ndim))
    given = (axes,) if isinstance(axes, int | np.integer) else tuple(axes)
    return _axes_of(op, tuple(x.shape), given)


@lru_cache(maxsize=1024)
def _axes_of(op: str, shape: Shape, given: tuple[int, ...]) -> tuple[int, ...]:
    rank = len(shape) or 1  # a 0-d array may be reduced over its axis 0 or -1, as in PyTorch
    for axis in given:
        if not -rank <= axis < rank:
            raise IndexError(f"{op}: axis {axis} is out of range for shape {shape}")
    result = tuple(sorted(axis % rank for axis in given))
    if len(set(result)) != len(result):
        raise ValueError(f"{op}: an axis is named twice in {given}")
    return (result if shape else ()) or tuple(range(len(shape)))


def sum(x: Array, axes: Axes = None, *, keepdims: bool = False) -> Array:
    """Sum over ``axes``; of bools and ints as int64.

    Raises:
        IndexError, ValueError: As ``axes_of``.
    """
    dtype = np.dtype(np.int64) if x.dtype.kind in "biu" else x.dtype
    return _run("sum", x, axes_of("sum", x, axes), dtype, keepdims)


def max(x: Array, axes: Axes = None, *, keepdims: bool = False) -> Array:
    """Largest element over ``axes``.

    Raises:
        IndexError, ValueError: As ``axes_of``; ValueError when nothing is left to choose from.
    """
    return _run("max", x, _not_empty("max", x, axes), x.dtype, keepdims)


def min(x: Array, axes: Axes = None, *, keepdims: bool = False) -> Array:
    """Smallest element over ``axes``.

    Raises:
        IndexError, ValueError: As ``axes_of``; ValueError when nothing is left to choose from.
    """
    return _run("min", x, _not_empty("min", x, axes), x.dtype, keepdims)


def argmax(x: Array, axis: int | None = None, *, keepdims: bool = False) -> Array:
    """Index, int64, of the first largest element along ``axis``, or of x in C order.

    Raises:
        TypeError: ``axis`` is neither an int nor None.
        IndexError, ValueError: As ``max``.
    """
    return _index("argmax", x, axis, keepdims)


def argmin(x: Array, axis: int | None = None, *, keepdims: bool = False) -> Array:
    """Index, int64, of the first smallest element along ``axis``, or of x in C order.

    Raises:
        TypeError, IndexError, ValueError: As ``argmax``.
    """
    return _index("argmin", x, axis, keepdims)


def _index(name: str, x: Array, axis: int | None, keepdims: bool) -> Array:
    if axis is not None and not isinstance(axis, int | np.integer):
        raise TypeError(f"{name}: one axis, an int, is needed, or None, not {axis!r}")
    axes = _not_empty(name, x, axis)
    if axis is not None:
        return _run(name, x, axes, np.int64, keepdims)
    flat = _run(name, layout.contiguous(x).reshape(-1), (0,), np.int64, False)
    return flat.reshape((1,) * x.ndim) if keepdims else flat


def _not_empty(op: str, x: Array, axes: Axes) -> tuple[int, ...]:
    reduced = axes_of(op, x, axes)
    if any(x.shape[axis] == 0 for axis in reduced):
        raise ValueError(f"{op}: nothing to choose from in shape {tuple(x.shape)}, axes {reduced}")
    return reduced


def _run(name: str, x: Array, axes: tuple[int, ...], dtype: Any, keepdims: bool) -> Array:
    """Move the reduced axes last and flatten: the implementations see (kept, reduced)."""
    if is_bfloat16(x.dtype) and not is_float(x):
        raise TypeError(
            f"{name}: x has dtype bfloat16, which backend {backend_of(x)} cannot compute with, "
            "only cuda and emulator; convert it first, x.astype('float32')"
        )
    plan = _Plan.of(x.shape, x.strides, axes)
    rows = x.transpose(plan.order)
    rows = (rows if plan.is_view else layout.contiguous(rows)).reshape(plan.rows)
    y = empty(x, rows.shape[:1], dtype)
    getattr(implementation(__name__, x), name)(rows, y)
    return y.reshape(plan.shape_with_ones if keepdims else plan.shape)


class _Plan(NamedTuple):
    """How an array becomes (kept, reduced), and its result."""

    order: tuple[int, ...]
    rows: Shape
    is_view: bool  # each of the two is one axis in memory
    shape: Shape
    shape_with_ones: Shape

    @staticmethod
    @lru_cache(maxsize=1024)
    def of(shape: Shape, strides: tuple[int, ...], axes: tuple[int, ...]) -> "_Plan":
        kept = tuple(axis for axis in range(len(shape)) if axis not in axes)
        axes = tuple(sorted(axes, key=lambda axis: -abs(strides[axis])))

        def is_one_axis(group: tuple[int, ...]) -> bool:
            long = [axis for axis in group if shape[axis] != 1]
            return all(strides[a] == strides[b] * shape[b] for a, b in pairwise(long))

        return _Plan(
            kept + axes,
            (prod(shape[axis] for axis in kept), prod(shape[axis] for axis in axes)),
            is_one_axis(kept) and is_one_axis(axes),
            tuple(shape[axis] for axis in kept),
            tuple(1 if axis in axes else n for axis, n in enumerate(shape)),
        )
